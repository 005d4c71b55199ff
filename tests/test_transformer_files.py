"""A transformer of SD3, FLUX.1 or Z-Image alone in a file, with the rest from the folder of its family."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put
from flow_models import SD3_SCHEDULER, flux_parts, save_flow, sd3_parts, zimage_parts
from flow_names import original, swapped
from gguf import GGMLQuantizationType
from pictures import noise as picture
from safetensors.torch import load_file, save_file
from test_flow_layouts import (
    CHROMA,
    DEV,
    KLEIN_4B,
    KLEIN_9B,
    LARGE,
    MEDIUM,
    QWEN_IMAGE,
    SCHNELL,
    SD3,
    Z_IMAGE,
)
from test_gguf import write
from torch import Tensor
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.models import DiffusersDenoiser, describe, load_model, own_defaults
from diffedit_cli.models.networks import empty_network
from diffedit_cli.models.quantised import Quantised, is_quantised
from diffedit_cli.models.transformer_file import kind_of_transformer, with_own_names
from diffedit_cli.models.weights import State, fill

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def predicted(model: DiffusersDenoiser) -> Tensor:
    embeds = model.embed(["a horse", "a zebra"])
    return model.predict(draw_noise((16, 8, 8), [1, 2]), torch.tensor([0.3, 0.9]), embeds)


@pytest.fixture
def sd3(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_flow(tmp_path / "sd3", sd3_parts(), SD3_SCHEDULER)


@pytest.fixture
def zimage(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_flow(tmp_path / "zimage", zimage_parts(), SD3_SCHEDULER)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("kind", ["sd3", "zimage"])
def test_a_transformer_with_the_rest_of_a_folder(
    kind: str, names: str, prefix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    whole, weights = load_model(folder, device="cpu"), load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()  # it is not needed
    state = original(weights, kind) if names == "original" else weights
    alone = tmp_path / "alone.safetensors"
    save_file({prefix + key: x for key, x in state.items()}, alone)
    model = load_model(alone, text_encoder=str(folder), device="cpu")
    assert torch.equal(predicted(model), predicted(whole))
    assert (model.origin["model"], model.origin["text_encoder"]) == ("alone.safetensors", [kind])
    assert model.own_defaults == whole.own_defaults == own_defaults(str(alone))
    with pytest.raises(ModelError, match=r"alone.safetensors is a .* transformer") as caught:
        load_model(alone, device="cpu")
    assert "--text-encoder" in caught.value.hint
    save_file({**{prefix + key: x for key, x in state.items()}, f"{prefix}more": torch.ones(1)}, alone)
    with pytest.raises(ModelError, match="unknown tensors: more"):
        load_model(alone, text_encoder=str(folder), device="cpu")


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_transformer_in_gguf(kind: str, low_memory: bool, sd3: Path, tmp_path: Path) -> None:
    weights = load_file(sd3 / WEIGHTS)
    held = write(tmp_path / "sd3.gguf", original(weights, "sd3"), GGMLQuantizationType[kind], "sd3")
    save_file({key: x.contiguous() for key, x in held.items()}, tmp_path / "sd3.safetensors")
    one, other = (
        load_model(tmp_path / f"sd3.{end}", text_encoder=str(sd3), device="cpu", low_memory=low_memory)
        for end in ("gguf", "safetensors")
    )
    assert torch.allclose(predicted(one), predicted(other), atol=1e-4)
    assert is_quantised(one.unet.held[0] if low_memory else one.unet) == low_memory
    facts = describe(str(tmp_path / "sd3.gguf"))
    assert (facts["kind"], facts["networks"]["transformer"]["dtype"]) == ("Stable Diffusion 3.5 medium", kind)
    assert facts["memory"]["kept"] < facts["memory"]["weights"]


def test_a_transformer_of_zimage_in_gguf(zimage: Path, tmp_path: Path) -> None:
    state = original(load_file(zimage / WEIGHTS), "zimage")
    held = write(tmp_path / "zimage.gguf", state, GGMLQuantizationType.Q8_0, "lumina2")
    save_file({key: x.contiguous() for key, x in held.items()}, tmp_path / "zimage.safetensors")
    one, other = (
        load_model(tmp_path / f"zimage.{end}", text_encoder=str(zimage), device="cpu")
        for end in ("gguf", "safetensors")
    )
    assert torch.allclose(predicted(one), predicted(other), atol=1e-4)
    assert describe(str(tmp_path / "zimage.gguf"))["kind"] == "Z-Image"


FULL = {
    "SD3": SD3,
    "3.5 medium": MEDIUM,
    "3.5 large": LARGE,
    "FLUX dev": DEV,
    "FLUX schnell": SCHNELL,
    "Z-Image": Z_IMAGE,
    "Chroma": CHROMA,
    "klein 4B": KLEIN_4B,
    "klein 9B": KLEIN_9B,
    "Qwen-Image": QWEN_IMAGE,
}
KINDS = {
    "FLUX dev": "flux",
    "FLUX schnell": "flux",
    "Z-Image": "zimage",
    "Chroma": "chroma",
    "klein 4B": "flux2",
    "klein 9B": "flux2",
    "Qwen-Image": "qwenimage",
}


def as_q8(values: Tensor) -> Tensor | Quantised:
    if values.dim() != 2:
        return values
    codes = torch.empty(values.numel() // 32 * 34, dtype=torch.uint8, device="meta")
    return Quantised(codes, int(GGMLQuantizationType.Q8_0), values.shape)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own, of Chroma
@pytest.mark.parametrize("is_gguf", [False, True])
@pytest.mark.parametrize("name", FULL)
def test_every_tensor_of_a_full_size_file_finds_its_place(name: str, is_gguf: bool) -> None:
    kind = KINDS.get(name, "sd3")
    network = empty_network(name, kind, FULL[name])
    wanted = {key: values.shape for key, values in network.state_dict().items()}
    with torch.device("meta"):
        state = original({key: torch.empty(shape) for key, shape in wanted.items()}, kind)
    seen: State = {key: as_q8(x) if is_gguf else x for key, x in state.items()}
    named = with_own_names(name, kind, seen)
    assert {key: values.shape for key, values in named.items()} == wanted
    assert kind_of_transformer(state) == kind_of_transformer(wanted) == kind
    if kind in ("sd3", "flux", "chroma"):  # whose converters leave no such tensor to `fill`
        with pytest.raises(ModelError, match=r"unknown tensors: more.weight"):
            with_own_names(name, kind, {**seen, "more.weight": torch.zeros(1)})
    if is_gguf:
        assert sum(isinstance(values, Quantised) for values in named.values()) > 100
        return
    fill(name, network, named, torch.float32)  # a gap is refused


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own, of Chroma
@pytest.mark.parametrize(("name", "ending"), [("FLUX dev", "scale"), ("Chroma", "weight")])
def test_every_row_finds_its_place(name: str, ending: str) -> None:
    """Of networks that diffusers' converters take in full size only: with one number for each row."""
    kind, rows = KINDS[name], 0
    wanted: dict[str, Tensor] = {}
    for key, values in empty_network(name, kind, FULL[name]).state_dict().items():
        numbers = torch.arange(rows, rows := rows + values.shape[0])
        wanted[key] = numbers[:, None] if values.dim() == 2 else numbers
    state = original(wanted, kind)
    named = {re.sub("norm(s.[0-9]+)?.scale$", rf"norm\1.{ending}", key): x for key, x in state.items()}
    found = with_own_names(name, kind, {**named})
    assert found.keys() == wanted.keys()
    assert all(isinstance(x, Tensor) and torch.equal(x, wanted[key]) for key, x in found.items())


def test_rows_are_cut_and_joined_as_their_numbers_are() -> None:
    codes = torch.randint(0, 100, (6 * 34,), dtype=torch.uint8)
    for whole in (
        Quantised(codes, int(GGMLQuantizationType.Q8_0), torch.Size((6, 32))),
        Quantised(codes[:192], torch.float8_e4m3fn, torch.Size((6, 32)), torch.arange(1.0, 7)),
    ):
        numbers = whole.dense(torch.float32)
        parts = torch.split(whole, (1, 2, 3), dim=0)
        for part, some in zip(parts, numbers.split((1, 2, 3)), strict=True):
            assert torch.equal(part.dense(torch.float32), some)
        for part, some in zip(torch.chunk(whole, 3, dim=0), numbers.chunk(3), strict=True):
            assert torch.equal(part.dense(torch.float32), some)
        with pytest.raises(ValueError, match="cannot be cut"):
            whole.split((1, 2))
    plain = Quantised(codes, int(GGMLQuantizationType.Q8_0), torch.Size((6, 32)))
    turned = torch.cat([*plain.chunk(2)][::-1], dim=0)
    assert torch.equal(turned.dense(torch.float32), swapped(plain.dense(torch.float32)))


def test_what_does_not_fit_is_refused(sd3: Path, checkpoint: Path, tmp_path: Path) -> None:
    flux = save_flow(tmp_path / "flux", flux_parts(), {"shift": 1.0})
    state = original(load_file(sd3 / WEIGHTS), "sd3")
    path = tmp_path / "alone.safetensors"
    save_file(state, path)
    with pytest.raises(ModelError, match="is not a transformer of the same family"):
        load_model(path, text_encoder=str(flux), device="cpu")
    with pytest.raises(ModelError, match="is a Stable Diffusion 3 transformer") as caught:
        load_model(path, device="cpu")
    assert "--text-encoder" in caught.value.hint
    with pytest.raises(ModelError, match="is a Stable Diffusion 3 transformer"):
        load_model(path, text_encoder=str(checkpoint), device="cpu")
    with pytest.raises(ModelError, match="not a transformer file"):
        load_model(checkpoint / "unet", text_encoder=str(sd3), device="cpu")
    with pytest.raises(SettingError, match="--text-encoder cannot be used with the flow-matching model"):
        load_model(sd3, text_encoder=str(sd3), device="cpu")
    with pytest.raises(ModelError, match=r"another kind of checkpoint: it scales latents by 0\.5"):
        load_model(path, text_encoder=str(sd3), vae=str(checkpoint), device="cpu")
    del state["joint_blocks.0.x_block.attn.qkv.bias"]
    save_file(state, path)
    with pytest.raises(ModelError, match=r"alone.safetensors cannot be loaded"):
        load_model(path, text_encoder=str(sd3), device="cpu")


def test_a_transformer_with_the_parts_of_another_is_told(sd3: Path, checkpoint: Path, tmp_path: Path) -> None:
    schnell = save_flow(tmp_path / "schnell", flux_parts(), {"shift": 1.0})
    dev = save_flow(tmp_path / "dev", flux_parts(guidance_embeds=True), {"shift": 1.0})
    with pytest.raises(ModelError, match=r"is FLUX.1 dev, and its text encoders come from FLUX.1 schnell"):
        load_model(dev / WEIGHTS, text_encoder=str(schnell), device="cpu")
    with pytest.raises(ModelError, match=r"is FLUX.1 schnell, and its text encoders come from FLUX.1 dev"):
        load_model(schnell / WEIGHTS, text_encoder=str(dev), device="cpu")
    unet = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    for file in (dev / WEIGHTS, unet):
        with pytest.raises(ModelError, match="is not a transformer of the same family"):
            load_model(file, text_encoder=str(sd3), device="cpu")
    for file in (dev / WEIGHTS, sd3 / WEIGHTS):
        with pytest.raises(ModelError, match=r"is a (FLUX|Stable Diffusion 3) transformer") as caught:
            load_model(file, device="cpu")
        assert "--text-encoder" in caught.value.hint


def test_the_hubs_cache_needs_no_weights_of_a_transformer(sd3: Path, cache: Path, tmp_path: Path) -> None:
    save_file(original(load_file(sd3 / WEIGHTS), "sd3"), tmp_path / "alone.safetensors")
    (sd3 / WEIGHTS).unlink()
    put(cache, sd3, "someone/sd3")
    model = load_model(tmp_path / "alone.safetensors", text_encoder="someone/sd3", offline=True, device="cpu")
    assert model.origin["text_encoder"] == ["someone/sd3"]
    with pytest.raises(ModelError, match="Only a part of someone/sd3"):
        load_model("someone/sd3", offline=True)


@pytest.mark.parametrize("kind", ["sd3", "zimage"])
def test_an_edit_and_its_rerun(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue(kind)
    state = original(load_file(folder / WEIGHTS), kind)
    write(tmp_path / "alone.gguf", state, GGMLQuantizationType.Q8_0, kind)
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("photo.png")

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300", "TERM": "dumb"})

    model = ("-m", "alone.gguf", "--text-encoder", folder, "--device", "cpu")
    texts = ("--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--seed", "3")
    texts += ("--size", "64")
    made = run("edit", "photo.png", *texts, *model, "-o", "out.png")
    assert made.exit_code == 0, made.output
    assert run("rerun", "out.png", *model).exit_code == 0
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
