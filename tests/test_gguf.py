"""UNets in GGUF: files as ComfyUI-GGUF and stable-diffusion.cpp write them, and what is refused."""

import copy
import pickle
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_parts
from diffusers.quantizers.gguf.utils import dequantize_functions
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise as picture
from safetensors.torch import load_file, save_file
from single_files import State
from test_single_file import one_file, tiny
from typer.testing import CliRunner

from diffedit_cli.cli.app import app
from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, describe, load, load_model, single_file
from diffedit_cli.models.memory import needed_bytes, weight_bytes
from diffedit_cli.models.quantised import QuantisedConv2d, QuantisedLinear, is_quantised, of_gguf
from diffedit_cli.models.weights import read_network

Q8, Q4, BF16, F16 = (getattr(GGMLQuantizationType, name) for name in ("Q8_0", "Q4_0", "BF16", "F16"))
UNET = "model.diffusion_model."
PROMPTS = ["a horse", "a zebra"]


def write(path: Path, state: State, kind: GGMLQuantizationType, architecture: str = "sd1") -> State:
    """A file as ComfyUI-GGUF writes it, layers in `kind`; what it holds, in float32.

    Rows that do not divide into blocks are written as rows of 256 numbers.
    """
    writer, block = GGUFWriter(path, architecture), GGML_QUANT_SIZES[kind][0]
    held: State = {}
    for key, values in state.items():
        numbers = values.float().numpy()
        if numbers.ndim < 2:
            writer.add_tensor(key, numbers)
            held[key] = values.float()
            continue
        if numbers.shape[-1] % block and numbers.size % 256 == 0:
            writer.add_array(f"comfy.gguf.orig_shape.{key}", [*numbers.shape])
            numbers = numbers.reshape(-1, 256)
        used = GGMLQuantizationType.F16 if numbers.shape[-1] % block else kind
        data = quants.quantize(numbers, used)
        writer.add_tensor(key, data, raw_dtype=used)
        held[key] = torch.from_numpy(quants.dequantize(data, used)).reshape(values.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def predicted(model: DiffusersDenoiser) -> torch.Tensor:
    return model.predict(draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900]), model.embed(PROMPTS))


@pytest.fixture
def of_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """of_kind(kind): the tensors of a tiny checkpoint in one file, and its folder."""

    def make(kind: str) -> tuple[State, Path]:
        parts = tiny(kind)
        folder = save_parts(tmp_path / kind, parts, dict(set_alpha_to_one=kind == "sdxl"))
        monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
        return one_file(kind, parts), folder

    return make


def unet_of(state: Mapping[str, torch.Tensor], prefix: str = UNET) -> State:
    return {prefix + key.removeprefix(UNET): x for key, x in state.items() if key.startswith(UNET)}


@pytest.mark.parametrize("kind", sorted(dequantize_functions))
def test_every_type_holds_the_numbers_that_its_library_reads(kind: GGMLQuantizationType) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    codes = np.random.default_rng(int(kind)).integers(0, 256, (500, size), np.uint8)
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(quants.dequantize(codes, GGMLQuantizationType(kind)).reshape(-1, block))
    found = of_gguf(torch.from_numpy(codes), int(kind))
    usual = torch.isfinite(wanted)
    assert found.dtype == torch.float32
    assert usual.float().mean() > 0.9
    torch.testing.assert_close(found[usual], wanted[usual], rtol=1e-6, atol=0)


@pytest.mark.parametrize("prefix", ["", UNET])
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_unet_runs_with_the_rest_of_a_folder(kind: str, prefix: str, of_kind: Any, tmp_path: Path) -> None:
    state, folder = of_kind(kind)
    held = write(tmp_path / "unet.gguf", unet_of(state, prefix), Q8)
    save_file(
        unet_of({UNET + key.removeprefix(prefix): x for key, x in held.items()}),
        tmp_path / "unet.safetensors",
    )
    one, other = (
        load_model(tmp_path / f"unet.{end}", text_encoder=str(folder), device="cpu")
        for end in ("gguf", "safetensors")
    )
    assert torch.allclose(predicted(one), predicted(other), atol=1e-5)
    whole = load_model(folder, device="cpu")
    assert not torch.equal(predicted(one), predicted(whole))
    assert torch.allclose(predicted(one), predicted(whole), atol=0.05)
    assert torch.equal(one.embed(PROMPTS).tokens, whole.embed(PROMPTS).tokens)
    assert torch.equal(one.decode(draw_noise((4, 8, 8), [1])), whole.decode(draw_noise((4, 8, 8), [1])))
    assert one.schedule.alphas_cumprod.equal(whole.schedule.alphas_cumprod)
    assert one.origin["model"] == "unet.gguf"
    assert one.origin["text_encoder"] == [kind]


def test_layers_stay_quantised_with_low_memory(of_kind: Any, tmp_path: Path) -> None:
    state, folder = of_kind("sd1")
    write(tmp_path / "unet.gguf", unet_of(state), Q8)
    model, plain = (
        load_model(tmp_path / "unet.gguf", text_encoder=str(folder), device="cpu", low_memory=low_memory)
        for low_memory in (True, False)
    )
    assert not is_quantised(plain.unet)
    assert weight_bytes([model.unet]) < weight_bytes([plain.unet]) / 2
    assert torch.allclose(predicted(model), predicted(plain), atol=1e-5)
    kinds = [type(module) for module in model.unet.modules()]
    assert kinds.count(QuantisedLinear) > 20
    assert QuantisedConv2d in kinds
    layer = next(module for module in model.unet.modules() if isinstance(module, QuantisedLinear))
    assert layer.codes.dtype == torch.uint8
    assert layer.codes.numel() == layer.shape.numel() * 34 // 32
    eps = predicted(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(predicted(copied), eps)
    weights = model.unet.state_dict()
    assert weights.keys() == plain.unet.state_dict().keys()
    assert torch.equal(weights["conv_in.weight"], model.unet.conv_in.weight)


def test_layers_stay_quantised_where_plain_ones_do_not_fit(
    of_kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, folder = of_kind("sd1")
    write(tmp_path / "unet.gguf", unet_of(state), Q8)
    plain_bytes = weight_bytes([load_model(folder, device="cpu").unet])
    for free, is_kept in ((needed_bytes(plain_bytes) - 1, True), (2**40, False)):
        monkeypatch.setattr(load, "free_bytes", lambda device, free=free: free)
        model = load_model(tmp_path / "unet.gguf", text_encoder=str(folder), device="cpu")
        assert (is_quantised(model.unet), model.low_memory, model.origin["low_memory"]) == 3 * (is_kept,)
        assert bool(model.notices) == is_kept  # Little memory is free


@pytest.mark.parametrize("kind", [BF16, F16, Q4])
def test_a_whole_checkpoint_in_gguf(kind: GGMLQuantizationType, of_kind: Any, tmp_path: Path) -> None:
    """As stable-diffusion.cpp converts them."""
    state, _ = of_kind("sd1")
    held = write(tmp_path / "all.gguf", state, kind)
    save_file({key: x.contiguous() for key, x in held.items()}, tmp_path / "all.safetensors")
    one, other = (load_model(tmp_path / f"all.{end}", device="cpu") for end in ("gguf", "safetensors"))
    assert torch.equal(one.embed(PROMPTS).tokens, other.embed(PROMPTS).tokens)
    assert torch.allclose(predicted(one), predicted(other), atol=1e-5)


def test_a_unet_of_diffusers_names(of_kind: Any, tmp_path: Path) -> None:
    _, folder = of_kind("sdxl")
    state = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    held = write(tmp_path / "unet.gguf", state, Q8)
    model = load_model(tmp_path / "unet.gguf", text_encoder=str(folder), device="cpu")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    save_file(held, folder / "unet/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert torch.allclose(predicted(model), predicted(load_model(folder, device="cpu")), atol=1e-5)


def test_a_gguf_says_what_it_is(of_kind: Any, tmp_path: Path) -> None:
    state, _ = of_kind("sdxl")
    write(tmp_path / "unet.gguf", unet_of(state), Q8, "sdxl")
    facts = describe(str(tmp_path / "unet.gguf"))
    assert facts["kind"] == "Stable Diffusion XL"
    assert facts["networks"] == {"unet": {"parameters": facts["parameters"], "dtype": "Q8_0"}}
    assert facts["parameters"] == sum(x.numel() for x in unet_of(state).values())
    assert facts["lacks"] == ["text encoders (--text-encoder)", "VAE (--vae)"]
    assert facts["memory"]["weights"] == facts["parameters"] * (
        2 if facts["memory"]["dtype"] != "float32" else 4
    )
    assert facts["memory"]["kept"] < facts["memory"]["weights"] / 1.5
    with pytest.raises(ModelError, match="lacks a text encoder and a VAE") as caught:
        load_model(tmp_path / "unet.gguf", device="cpu")
    assert "--text-encoder" in caught.value.hint


def test_an_edit_and_its_rerun(of_kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, folder = of_kind("sd1")
    write(tmp_path / "unet.gguf", unet_of(state), Q8)
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save("photo.png")

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300", "TERM": "dumb"})

    model = ("-m", "unet.gguf", "--device", "cpu")
    texts = ("--ref", "horse", "--query", "zebra", "--steps", "2", "--mask-samples", "1", "--seed", "3")
    made = run("edit", "photo.png", *texts, *model, "--text-encoder", folder, "-o", "out.png")
    assert made.exit_code == 0, made.output
    refused = run("rerun", "out.png", *model)
    assert "made with the text encoder sd1, which is not stored in it" in refused.output
    assert run("rerun", "out.png", *model, "--text-encoder", folder).exit_code == 0
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()


def test_a_lora_is_added_to_plain_weights(of_kind: Any, tmp_path: Path) -> None:
    state, folder = of_kind("sd1")
    write(tmp_path / "unet.gguf", unet_of(state), Q8)
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{stem}.lora_up.weight": torch.ones(32, 2), f"{stem}.lora_down.weight": torch.ones(2, 32)}
    save_file(lora, tmp_path / "lora.safetensors")
    plain, own = (
        load_model(
            tmp_path / "unet.gguf", text_encoder=str(folder), device="cpu", lora=loras, low_memory=True
        )
        for loras in ((), str(tmp_path / "lora.safetensors"))
    )
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = [model.unet.get_submodule(name).weight for model in (plain, own)]
    assert torch.allclose(weights[1] - weights[0], torch.full((32, 32), 2.0), atol=1e-5)


def small(path: Path, **facts: Any) -> bytes:
    """A tiny file that is read: a first layer and another tensor."""
    writer = GGUFWriter(path, facts.pop("architecture", "sd1"))
    writer.add_array("names", ["a", "b"])
    for key, value in facts.items():
        writer.add_uint32(key.replace("_", "."), value)
    writer.add_tensor("input_blocks.0.0.weight", np.zeros((8, 4, 3, 3), np.float32))
    writer.add_tensor("other", np.zeros((8, 34), np.uint8), raw_dtype=Q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def spoil(data: bytes, harm: str) -> bytes:
    """A file that is wrong in one place."""
    before_sides = data.index(b"other") + len(b"other") + 4  # after the number of sides
    text = data.index(b"names") + len(b"names") + 4  # after the kind of the value
    return {
        "empty": b"",
        "text": b"<html>404</html>",
        "version": data[:4] + struct.pack("<I", 9) + data[8:],
        "cut": data[:-40],
        "cut head": data[:60],
        "many tensors": data[:8] + struct.pack("<Q", 2**63) + data[16:],
        "many facts": data[:16] + struct.pack("<Q", 2**63) + data[24:],
        "a long list": data[:text] + struct.pack("<IQ", 8, 2**62) + data[text + 12 :],
        "a long list of numbers": data[:text] + struct.pack("<IQ", 10, 2**62) + data[text + 12 :],
        "a list of lists": data[:text] + struct.pack("<IQ", 9, 2) + data[text + 12 :],
        "many sides": data[: before_sides - 4] + struct.pack("<I", 2**31) + data[before_sides:],
        "long sides": data[:before_sides] + struct.pack("<QQ", 2**60, 32) + data[before_sides + 16 :],
        "no sides": data[:before_sides] + struct.pack("<QQ", 0, 8) + data[before_sides + 16 :],
        "broken rows": data[:before_sides] + struct.pack("<QQ", 8, 8) + data[before_sides + 16 :],
        "a place beyond": data[: before_sides + 20] + struct.pack("<Q", 2**40) + data[before_sides + 28 :],
        "no type": data[: before_sides + 16] + struct.pack("<I", 4) + data[before_sides + 20 :],
        "a new type": data[: before_sides + 16] + struct.pack("<I", 999) + data[before_sides + 20 :],
        "whole numbers": data[: before_sides + 16] + struct.pack("<I", 24) + data[before_sides + 20 :],
        "twice": data.replace(b"\5\0\0\0\0\0\0\0other", b"\5\0\0\0\0\0\0\0names", 1),
    }[harm]


HARMS = {
    "no type": "quantised as type 4, which is not supported",
    "a new type": "quantised as type 999, which is not supported",
    "whole numbers": "quantised as I8, which is not supported",
    "twice": "",
}


@pytest.mark.parametrize(
    "harm",
    ["empty", "text", "version", "cut", "cut head", "many tensors", "many facts", "a long list",
     "a long list of numbers", "a list of lists", "many sides", "long sides", "no sides", "broken rows",
     "a place beyond", "no type", "a new type", "whole numbers"],
)  # fmt: skip
def test_spoilt_files_are_refused_at_once(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.gguf"
    path.write_bytes(spoil(small(path), harm))
    words = HARMS.get(harm, "truncated, or not a GGUF file")
    for run in (load_model, describe):
        with pytest.raises(ModelError, match=words) as caught:
            run(str(path))
        assert caught.value.hint


@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_change_of_a_head_is_refused_or_read(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "any.gguf"
    data = bytearray(small(path))
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(data)
    with suppress(ModelError):
        read_network("any.gguf", path)


@pytest.mark.parametrize("step", [0, 3])
def test_spoilt_alignments_are_refused(step: int, tmp_path: Path) -> None:
    small(tmp_path / "spoilt.gguf", general_alignment=step)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path / "spoilt.gguf")


@pytest.mark.parametrize(
    ("architecture", "key", "words"),
    [
        ("flux", "double_blocks.0.img_attn.qkv.weight", "is a FLUX transformer"),
        ("llama", "blk.0.attn_q.weight", "architecture is 'llama'"),
        ("sd3", "joint_blocks.0.x_block.attn.qkv.weight", "is a Stable Diffusion 3 transformer"),
        ("pig", "conv_in.weight", "lacks a text encoder"),
    ],
)
def test_other_networks_are_named(architecture: str, key: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "other.gguf", {key: torch.zeros(32, 32)}, Q8, architecture)
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path / "other.gguf")


def test_without_its_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "unet.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="needs the package gguf") as caught:
        load_model(tmp_path / "unet.gguf")
    assert "diffedit-cli[gguf]" in caught.value.hint
