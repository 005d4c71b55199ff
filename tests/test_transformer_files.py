"""A transformer of SD3, FLUX.1 or Z-Image alone in a file, with the rest from the folder of its family."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put
from flow_models import (
    SD3_SCHEDULER,
    chroma_parts,
    flux_parts,
    klein_parts,
    qwen_image_parts,
    save_flow,
    sd3_parts,
    zimage_parts,
)
from gguf import GGMLQuantizationType
from pictures import noise as picture
from safetensors.torch import load_file, save_file
from single_files import swap
from test_flow_layouts import DEV, LARGE, MEDIUM, SCHNELL, SD3, Z_IMAGE
from test_gguf import write
from torch import Tensor
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.models import DiffusersDenoiser, describe, load_model, own_defaults
from diffedit_cli.models.networks import empty_network
from diffedit_cli.models.quantised import Quantised, is_quantised
from diffedit_cli.models.transformer_file import with_own_names
from diffedit_cli.models.weights import State, fill

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
IN_SD3 = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
ROUND_SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
IN_FLUX = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
IN_FLUX_SINGLE = {
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
}
ROUND_FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
IN_ZIMAGE = {
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
}
JOINED = {  # layers that the original code has as one, by its name
    "sd3": {
        "x_block.attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
        "x_block.attn2.qkv": ["attn2.to_q", "attn2.to_k", "attn2.to_v"],
        "context_block.attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    },
    "flux": {
        "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
        "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    },
    "single": {"linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]},
}
BLOCKS = {
    "sd3": ("transformer_blocks", "joint_blocks", IN_SD3),
    "flux": ("transformer_blocks", "double_blocks", IN_FLUX),
    "single": ("single_transformer_blocks", "single_blocks", IN_FLUX_SINGLE),
}


@pytest.mark.parametrize(
    ("parts", "family"), [(chroma_parts, "Chroma"), (klein_parts, "FLUX.2"), (qwen_image_parts, "Qwen-Image")]
)
def test_a_family_that_is_read_from_folders_alone_is_named(
    parts: Callable[[], dict[str, Any]], family: str, tmp_path: Path
) -> None:
    folder, file = save_flow(tmp_path / "whole", parts(), SD3_SCHEDULER), tmp_path / "alone.safetensors"
    shutil.copy(folder / WEIGHTS, file)
    with pytest.raises(ModelError, match=f"A transformer of {family} alone in a file is not supported"):
        load_model(file, text_encoder=str(folder), device="cpu")
    with pytest.raises(ModelError, match=f"A transformer of {family} alone"):
        describe(str(file))


def swapped(values: Tensor) -> Tensor:
    return torch.cat([*values.chunk(2)][::-1])


def original(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """A transformer's tensors under the names of the original code."""
    if kind == "zimage":
        return original_zimage(state)
    left, found = dict(state), dict[str, Tensor]()
    for key, values in state.items():
        stem, _, end = key.rpartition(".")
        names = ROUND_SD3 if kind == "sd3" else ROUND_FLUX
        if name := names.get(key, names.get(stem)):
            name = name if key in names else f"{name}.{end}"
            found[name] = swapped(values) if "final_layer.ada" in name else left[key]
            del left[key]
    for sort in ("sd3",) if kind == "sd3" else ("flux", "single"):
        theirs, own, inside = BLOCKS[sort]
        numbers = sorted({int(key.split(".")[1]) for key in left if key.startswith(f"{theirs}.")})
        for i in numbers:
            for name, layers in JOINED[sort].items():
                for end in ("weight", "bias"):
                    keys = [f"{theirs}.{i}.{layer}.{end}" for layer in layers]
                    if keys[0] in left:
                        found[f"{own}.{i}.{name}.{end}"] = torch.cat([left.pop(key) for key in keys])
            for layer, name in inside.items():
                for end in ("weight", "bias"):
                    key = f"{theirs}.{i}.{layer}.{end}"
                    if key in left:
                        is_last = sort == "sd3" and layer == "norm1_context.linear" and i == numbers[-1]
                        values = left.pop(key)
                        ending = "scale" if name.endswith(("query_norm", "key_norm")) else end
                        found[f"{own}.{i}.{name}.{ending}"] = swapped(values) if is_last else values
    assert not left
    return {key: values.contiguous() for key, values in found.items()}


def original_zimage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {"norm_final.weight": torch.ones(8)}  # which no code uses
    for key, values in state.items():
        if ".to_q." in key:
            joined = [state[key.replace(".to_q.", f".to_{one}.")] for one in "qkv"]
            found[key.replace(".to_q.", ".qkv.")] = torch.cat(joined)
        elif ".to_k." not in key and ".to_v." not in key:
            found[swap(key, IN_ZIMAGE)] = values.contiguous()
    return found


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
}
KINDS = {"FLUX dev": "flux", "FLUX schnell": "flux", "Z-Image": "zimage"}


def as_q8(values: Tensor) -> Tensor | Quantised:
    if values.dim() != 2:
        return values
    codes = torch.empty(values.numel() // 32 * 34, dtype=torch.uint8, device="meta")
    return Quantised(codes, int(GGMLQuantizationType.Q8_0), values.shape)


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
    if kind != "zimage":  # whose converter leaves such a tensor to `fill`
        with pytest.raises(ModelError, match=r"unknown tensors: more.weight"):
            with_own_names(name, kind, {**seen, "more.weight": torch.zeros(1)})
    if is_gguf:
        assert sum(isinstance(values, Quantised) for values in named.values()) > 100
        return
    fill(name, network, named, torch.float32)  # a gap is refused


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
