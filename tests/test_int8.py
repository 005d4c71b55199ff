"""8-bit networks of OpenVINO: close to float32, stored, made again, silent, refused where they cannot run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import good, invoke
from pictures import noise

from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.core.types import silent
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, load_model
from diffedit_cli.models.compiled import OpenvinoUNet, is_installed, products
from diffedit_cli.models.converted import cache_folder
from diffedit_cli.models.int8 import SENSITIVE, quantise
from diffedit_cli.settings import ModelConfig, build

pytestmark = pytest.mark.skipif(not is_installed(), reason="the extra openvino is not installed")
QUICK = ["--ref", "horse", "--query", "zebra", "--mask-samples", "2", "--steps", "3", "--seed", "1"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def prediction(model: DiffusersDenoiser) -> torch.Tensor:
    x = draw_noise((4, 16, 16), [*range(4)])
    return model.predict(x, torch.tensor([50, 300, 600, 950]), model.embed(["a horse", "a zebra", "", ""]))


def layers(model: DiffusersDenoiser) -> tuple[set[str], set[str]]:
    """The names of convolutions and products that read 8 bits, and of those that do not."""
    assert isinstance(model.unet, OpenvinoUNet)
    import openvino

    network: Any = openvino.Core().read_model(model.unet.file)
    kinds: tuple[set[str], set[str]] = set(), set()
    for operation in network.get_ops():
        if operation.get_type_name() in ("Convolution", "MatMul"):
            source = operation.input_value(0).get_node()
            while source.get_type_name() in ("Reshape", "Transpose"):
                source = source.input_value(0).get_node()
            kinds[source.get_type_name() != "FakeQuantize"].add(operation.get_friendly_name())
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize(("which", "most"), [("embedded", 0.05), ("build_xl", 0.1)])
def test_most_layers_have_8_bits_and_predict_nearly_the_same(
    which: str, most: float, request: pytest.FixtureRequest
) -> None:
    """build_xl has random weights, which leave more of an error."""
    folder = EMBEDDED if which == "embedded" else request.getfixturevalue(which)()
    plain = load_model(folder, device="cpu", backend="torch", dtype="float32")
    small = load_model(folder, device="cpu", dtype="int8")
    assert (small.origin["dtype"], small.origin["backend"]) == ("int8", "openvino")
    assert small.dtype == products(torch.int8)
    wanted = prediction(plain)
    assert float((prediction(small) - wanted).norm() / wanted.norm()) < most
    inside, outside = layers(small)
    assert len(inside) > len(outside) > 0
    assert not any(piece in name for name in inside for piece in SENSITIVE)
    assert any("conv1" in name for name in inside)
    assert any("attn1" in name for name in inside)


LISTEN = """if True:
    import sys
    def refuse(event, _):
        if event.startswith("socket."):
            raise SystemExit(f"8 bits: {event}")
    sys.addaudithook(refuse)
    from diffedit_cli.models.int8 import main
    main()
    sys.exit("openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is not None)
"""


@pytest.mark.slow
def test_an_edit_is_made_again_and_nothing_is_sent(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real process of NNCF, under an audit of its sockets; its logging and bars are not heard."""
    run, codes = subprocess.run, list[int]()

    def audited(command: list[str], **options: Any) -> Any:
        spares = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "PYTEST_CURRENT_TEST")
        open_air = {name: value for name, value in os.environ.items() if name not in spares}
        assert command[:3] == [sys.executable, "-P", "-c"]  # no code of the current folder is run
        done = run([*command[:3], LISTEN, *command[4:]], **options, env=open_air)
        codes.append(done.returncode)
        return done

    monkeypatch.setattr(subprocess, "run", audited)
    told = good(invoke("models", "optimize", checkpoint, "--dtype", "int8"))
    assert codes == [0]
    assert capfd.readouterr() == ("", "")
    assert "is converted for OpenVINO in int8" in told.stdout + told.stderr
    (folder,) = (path for path in cache_folder().iterdir() if path.is_dir())
    assert not [path for path in folder.iterdir() if path.suffix == ".npz" or "int8" in path.name]

    noise(40, 30).save("photo.png")
    words = ["photo.png", *QUICK, "--model", checkpoint, "--device", "cpu"]
    good(invoke("edit", *words, "--dtype", "int8", "-o", "out.png"))
    stored = read_settings("out.png") or {}
    assert (stored["dtype"], stored["backend"]) == ("int8", "openvino")
    good(invoke("rerun", "out.png", "--model", checkpoint, "-o", "again.png"))
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    good(invoke("edit", *words, "-o", "plain.png"))  # 8 bits are never taken unasked
    assert (read_settings("plain.png") or {})["backend"] == "torch"


def test_8_bits_need_openvino_and_a_cpu(checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="--dtype int8 cannot be used with --backend torch"):
        load_model(checkpoint, dtype="int8", backend="torch")
    with pytest.raises(SettingError, match="--compile cannot be used with --dtype int8"):
        load_model(checkpoint, dtype="int8", compile=True)
    assert build(ModelConfig, {"dtype": "int8"}).engine == "openvino"
    assert build(ModelConfig, {"dtype": "int8", "backend": "openvino"}).engine == "openvino"
    assert build(ModelConfig, {"dtype": "float32"}).engine == "auto"


def test_without_the_package_nothing_is_converted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)  # as Python spells a missing module
    done = invoke("models", "optimize", checkpoint, "--dtype", "int8")
    assert done.exit_code == 1
    assert "needs the package nncf, which is not installed. pip install 'diffedit-cli[int8]'" in done.stderr
    assert not cache_folder().exists() or not list(cache_folder().glob("*/about.json"))


def test_a_failure_is_told_in_one_sentence(tmp_path: Path) -> None:
    """The process cannot read its network."""
    (tmp_path / "unet.xml").write_text("spoilt")
    with pytest.raises(ModelError, match=r"^The UNet cannot be quantised to 8 bits: \S") as caught:
        quantise(tmp_path / "unet.xml", [[np.zeros(1)]], silent)
    assert caught.value.hint == "Leave --dtype int8 out."
    assert [path.name for path in tmp_path.glob("unet*")] == ["unet.xml"]
