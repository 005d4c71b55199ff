"""What is built from this repository, and what all of its tests can rely on."""

import json
import random
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
import torch

from diffedit_cli import __version__
from diffedit_cli.session import random_seed

ROOT = Path(__file__).parent.parent
PROGRAM = """
from diffedit_cli import EditConfig, edit_image, load_image, load_model

result = edit_image(load_model("embedded"), load_image("in.jpg"), EditConfig(ref="horse", query="zebra"))
reveal_type(result)
reveal_type(result.changed_outside)
EditConfig(steps="many")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_every_licence_comes_with_its_text(built: Path) -> None:
    wheel = zipfile.ZipFile(built / f"diffedit_cli-{__version__}-py3-none-any.whl")
    info = f"diffedit_cli-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    licences = set(re.split(" AND ", metadata["License-Expression"]))
    assert {"Apache-2.0", "GPL-2.0-or-later"} <= licences
    with tarfile.open(built / f"diffedit_cli-{__version__}.tar.gz") as sdist:
        sources = set(sdist.getnames())
    for licence in licences:
        text = f"LICENSES/{licence}.txt"
        assert wheel.read(f"{info}/licenses/{text}") == (ROOT / text).read_bytes()
        assert f"diffedit_cli-{__version__}/{text}" in sources
    wheel.close()


@pytest.mark.slow
def test_a_program_sees_the_types(built: Path, tmp_path: Path) -> None:
    """In pyright's strict mode a package without py.typed is an error of its own."""
    venv.create(tmp_path / "venv", with_pip=False)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    python = tmp_path / "venv/bin/python"
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = [(line["severity"], line["message"]) for line in json.loads(done.stdout)["generalDiagnostics"]]
    assert [message for severity, message in said if severity == "information"] == [
        'Type of "result" is "EditResult"',
        'Type of "result.changed_outside" is "int"',
    ]
    (error,) = (message for severity, message in said if severity == "error")
    assert '"Literal[\'many\']" is not assignable to "int"' in error


@pytest.mark.parametrize("order", ["first", "second"])
def test_every_test_draws_the_same_numbers(order: str) -> None:
    drawn = random.random(), float(np.random.rand()), float(torch.rand(1)), random_seed()
    torch.manual_seed(0)
    seeded = random.Random(0).random(), np.random.RandomState(0).rand(), float(torch.rand(1))
    assert drawn == (*seeded, random.Random(0).randrange(2**32))
    assert random_seed() != drawn[-1]
