"""A VAE of the user's own: from a folder, a file in either layout, and the hub's cache."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put, save_parts, tiny_vae
from pictures import noise as picture
from safetensors.torch import load_file, save_file
from single_files import vae_key
from test_single_file import one_file, tiny
from torch import Tensor
from typer.testing import CliRunner

from diffedit_cli.batch.plan import identity
from diffedit_cli.cli.app import app
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, load_model, single_file
from diffedit_cli.settings import ModelConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """Another VAE, and its folder."""
    vae = tiny_vae().eval()
    vae.save_pretrained(tmp_path / "other")
    return vae


def load(path: Path, vae: Any) -> DiffusersDenoiser:
    return load_model(path, device="cpu", dtype="float32", vae=str(vae))


def original(vae: Any, prefix: str = "", *, blocks: int = 2) -> dict[str, Tensor]:
    """Its tensors under the names of the code that trained it."""
    state: dict[str, Tensor] = {}
    for key, values in vae.state_dict().items():
        is_convolution = "attentions" in key and key.endswith("weight") and values.dim() == 2
        state[prefix + vae_key(key, blocks)] = (
            values[:, :, None, None] if is_convolution else values
        ).clone()
    return state


def is_used(model: DiffusersDenoiser, vae: Any) -> bool:
    with torch.inference_mode():
        latents, pixels = torch.ones(1, 4, 8, 8), torch.full((1, 3, 32, 32), 0.3)
        drawn = (vae.decode(latents / 0.5).sample / 2 + 0.5).clamp(0, 1)
        encoded = vae.encode(2 * pixels - 1).latent_dist.mode() * 0.5
    return torch.allclose(model.decode(latents), drawn, atol=1e-5) and torch.allclose(
        model.encode(pixels), encoded, atol=1e-5
    )


def test_a_folder(checkpoint: Path, model: DiffusersDenoiser, other: Any, tmp_path: Path) -> None:
    assert not is_used(model, other)
    used = load(checkpoint, tmp_path / "other")
    assert is_used(used, other)
    assert used.origin["vae"] == "other"
    whole = save_parts(tmp_path / "whole", {"vae": other}, {})
    assert is_used(load(checkpoint, whole), other)  # of a whole checkpoint's folder
    (tmp_path / "other" / WEIGHTS).rename(tmp_path / "other/diffusion_pytorch_model.fp16.safetensors")
    assert is_used(load(checkpoint, tmp_path / "other"), other)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_file_of_the_original_layout(checkpoint: Path, other: Any, tmp_path: Path, prefix: str) -> None:
    state = original(other, prefix) | {f"{prefix}loss.logvar": torch.zeros(1)}
    save_file(state, tmp_path / "vae.safetensors")
    assert is_used(load(checkpoint, tmp_path / "vae.safetensors"), other)


def test_a_file_of_diffusers(checkpoint: Path, other: Any, tmp_path: Path) -> None:
    assert is_used(load(checkpoint, tmp_path / "other" / WEIGHTS), other)


def test_the_hubs_cache(checkpoint: Path, other: Any, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="someone/vae is not in the Hub's cache"):
        load_model(checkpoint, vae="someone/vae", offline=True)
    put(cache, tmp_path / "other", "someone/vae")
    assert is_used(load(checkpoint, "someone/vae"), other)


def test_one_file_may_lack_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Any) -> None:
    parts = tiny("sd1")
    save_parts(tmp_path / "sd1", parts, {})
    state = {key: x for key, x in one_file("sd1", parts).items() if not key.startswith("first_stage_model.")}
    save_file(state, tmp_path / "pruned.safetensors")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
    with pytest.raises(ModelError, match="lacks a VAE") as caught:
        load_model(tmp_path / "pruned.safetensors", device="cpu")
    assert "--vae" in caught.value.hint
    assert is_used(load(tmp_path / "pruned.safetensors", tmp_path / "other"), other)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"scaling_factor": 0.13025},
            "another kind of checkpoint: it scales latents by 0.13025",
        ),
        ({"_class_name": "AutoencoderTiny"}, "VAE of another class"),
        ({"shift_factor": 0.1}, "VAE with shift_factor"),
        ({"latent_channels": 10**9}, "out of bounds"),
        ({"block_out_channels": [8, 8]}, "missing or have the wrong shape"),
    ],
)
def test_other_vaes_are_refused(
    checkpoint: Path, other: Any, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    file = tmp_path / "other/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(ModelError, match=words) as caught:
        load(checkpoint, tmp_path / "other")
    assert caught.value.hint


def test_what_is_no_vae_is_refused(checkpoint: Path, other: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_file(
        load_file(tmp_path / "other" / WEIGHTS) | {"more": torch.ones(1)}, tmp_path / "more.safetensors"
    )
    for name, words in (
        ("nothing", "There is no VAE nothing"),
        (tmp_path / "empty", "holds no VAE"),
        (tmp_path / "gone.safetensors", "There is no file"),
        (checkpoint / "unet" / WEIGHTS, "missing or have the wrong shape|unknown tensors"),
        (tmp_path / "more.safetensors", "unknown tensors: more"),
    ):
        with pytest.raises(ModelError, match=words):
            load(checkpoint, name)


def test_an_edit_is_made_again_with_its_vae(
    checkpoint: Path, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("photo.png")
    texts = ("--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--seed", "3")

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300", "TERM": "dumb"})

    model = ("--model", checkpoint, "--device", "cpu")
    for name, vae in (("own.png", ()), ("out.png", ("--vae", "other"))):
        assert run("edit", "photo.png", *texts, *model, *vae, "-o", name).exit_code == 0
    assert Path("own.png").read_bytes() != Path("out.png").read_bytes()
    refused = run("rerun", "out.png", *model)
    assert "made with the VAE other, which is not stored in it" in refused.output
    assert run("rerun", "out.png", *model, "--vae", "other").exit_code == 0
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()


def test_a_batch_knows_its_vae(checkpoint: Path, other: Any, tmp_path: Path) -> None:
    plain, own = (
        identity(ModelConfig(model=str(checkpoint), vae=vae)) for vae in (None, str(tmp_path / "other"))
    )
    assert plain["addons"] == []
    assert own["addons"][0].startswith("other ")


def test_openvino_runs_the_vae_that_is_given(
    checkpoint: Path, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    named = {"device": "cpu", "dtype": "float32", "backend": "openvino"}
    used = load_model(checkpoint, vae=str(tmp_path / "other"), **named)
    assert used.origin["backend"] == "openvino"
    with torch.inference_mode():
        drawn = (other.decode(torch.ones(1, 4, 8, 8) / 0.5).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(used.decode(torch.ones(1, 4, 8, 8)), drawn, atol=1e-4)
    assert not torch.allclose(
        load_model(checkpoint, **named).decode(torch.ones(1, 4, 8, 8)), drawn, atol=1e-2
    )
