"""Results of 0.4.0 are made again, pixel for pixel with the torch and the kind of CPU that made them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from diffedit_cli.cli.app import app

ROOT = Path(__file__).parent.parent
MADE_BY = "2.13.0", "AVX512"  # the version of torch, and the instructions that its kernels use
INPUTS = {"edit": "horse_park.jpg", "mask": "horse_far.jpg", "generate": None}


@pytest.mark.parametrize("command", INPUTS)
def test_a_result_of_0_4_0_is_made_again(command: str, tmp_path: Path) -> None:
    """On one thread, as it was made: the number of threads changes the order of sums."""
    stored, picture = ROOT / "tests" / "data" / f"{command}-0.4.0.png", INPUTS[command]
    arguments = [] if picture is None else [str(ROOT / "examples" / picture)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        target = tmp_path / "again.png"
        result = CliRunner().invoke(app, ["rerun", str(stored), *arguments, "-o", str(target)])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    again, before = (np.asarray(Image.open(path), int) for path in (target, stored))
    if (torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability()) == MADE_BY:
        assert (again == before).all()
    assert np.abs(again - before).max() <= 2  # others round differently
