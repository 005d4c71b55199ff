"""Turn the horse into a zebra, and save the picture."""

import sys
from pathlib import Path

from diffedit_cli import EditConfig, edit_image, load_image, load_model

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

model = load_model("embedded")
config = EditConfig(ref="horse", query="zebra", seed=7)
result = edit_image(model, load_image("examples/horse_park.jpg"), config)

target = folder / "zebra_park.png"
result.save(target, overwrite=True)
print(f"Wrote {target}: {result.coverage:.0%} masked, {result.changed_outside} pixels changed outside.")
