"""examples/: every script runs from the repository's root and writes what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
FILES = {
    "edit_horse.py": {"zebra_park.png": (224, 224)},
    "morph.py": {"morph.gif": (128, 128)},
    "own_mask.py": {"own_mask.png": (160, 160), "pear_deck.png": (160, 160)},
    "show_mask.py": {f"dog_{name}.png": (256, 256) for name in ("mask", "heat", "overlay")},
}


def test_every_script_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(FILES)


@pytest.mark.parametrize("script", FILES)
@pytest.mark.slow
def test_script(tmp_path: Path, script: str) -> None:
    run = subprocess.run(
        [sys.executable, f"examples/{script}", str(tmp_path / "new")],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    written = {path.name: Image.open(path) for path in (tmp_path / "new").iterdir()}
    assert {name: image.size for name, image in written.items()} == FILES[script]
    assert all(name in run.stdout for name in written)
    for image in written.values():
        image.load()
        low, high = image.convert("L").getextrema()
        assert high - low > 100, "an even picture shows nothing"
        image.close()
