"""Edit inside a mask drawn by hand: white is redrawn, black is kept, grey is redrawn less."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from diffedit_cli import EditConfig, edit_image, load_image, load_model

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

picture = load_image("examples/apple_deck.jpg")
mask = Image.new("L", picture.rgb.size)
ImageDraw.Draw(mask).ellipse((32, 32, 128, 128), fill="white")
mask = mask.filter(ImageFilter.GaussianBlur(2))

config = EditConfig(ref="apple", query="pear", strength=1.0, seed=7)
result = edit_image(load_model("embedded"), picture, config, mask=mask)
mask.save(folder / "own_mask.png")
result.save(folder / "pear_deck.png", overwrite=True)
print(f"Wrote own_mask.png and pear_deck.png to {folder}.")
