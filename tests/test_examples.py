"""examples/: every script runs from the repository's root and writes what it says."""

import runpy
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
def test_script(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [f"examples/{script}", str(tmp_path / "new")])
    runpy.run_path(f"examples/{script}", run_name="__main__")
    said = capsys.readouterr().out
    written = {path.name: Image.open(path) for path in (tmp_path / "new").iterdir()}
    assert {name: image.size for name, image in written.items()} == FILES[script]
    assert all(name in said for name in written)
    for image in written.values():
        image.load()
        low, high = image.convert("L").getextrema()
        assert high - low > 100, "an even picture shows nothing"
        image.close()
