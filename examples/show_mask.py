"""Find the dog, and save its mask, the heat map behind it, and the mask drawn on the picture."""

import sys
from pathlib import Path

from diffedit_cli import EditConfig, MaskConfig, load_image, load_model, make_mask
from diffedit_cli.images.sheets import heat_to_image, overlay

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

picture = load_image("examples/dog_grass.jpg")
config = EditConfig(ref="dog", query="fox", seed=7, mask=MaskConfig(samples=12))
result = make_mask(load_model("embedded"), picture, config)

result.save(folder / "dog_mask.png", overwrite=True)
heat_to_image(result.heat).save(folder / "dog_heat.png")
overlay(picture, result.mask).save(folder / "dog_overlay.png")
print(f"Wrote dog_mask.png, dog_heat.png and dog_overlay.png to {folder}.")
