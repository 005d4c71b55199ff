"""Draw the frames between two prompts, and save them as a gif."""

import sys
from pathlib import Path

from diffedit_cli import InterpolateConfig, interpolate_frames, load_model
from diffedit_cli.images.video import write_frames

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

prompts = ("a photo of a horse in a meadow", "a photo of a zebra in the savanna")
config = InterpolateConfig(prompts=prompts, frames=6, steps=12, seed=(7,))
frames = interpolate_frames(load_model("embedded"), config)  # each is drawn when it is requested

target = folder / "morph.gif"
write_frames(frames, target, fps=6, overwrite=True)
print(f"Wrote {target}.")
