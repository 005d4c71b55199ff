"""Checkpoints in fp8, plain and with scales as ComfyUI writes them, in one file and in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import save_parts
from safetensors.torch import load_file, save_file
from single_files import State
from test_single_file import one_file, tiny
from torch import Tensor

from diffedit_cli.core.schedules import draw_noise
from diffedit_cli.errors import ModelError
from diffedit_cli.models import DiffusersDenoiser, describe, load_model, single_file
from diffedit_cli.models.quantised import is_quantised

UNET = "unet/diffusion_pytorch_model.safetensors"
FP8 = torch.float8_e4m3fn


def is_layer(key: str, values: Tensor) -> bool:
    return key.endswith(".weight") and values.dim() >= 2 and "embedding" not in key


def as_json(**about: object) -> Tensor:
    return torch.tensor([*json.dumps(about).encode()], dtype=torch.uint8)


def scaled(state: State, style: str, prefix: str = "") -> tuple[State, State]:
    """A state with its layers in fp8 and scales beside them, and the same in float32 without scales."""
    quantised, plain = dict(state), dict(state)
    for key, values in state.items():
        if not (key.startswith(prefix) and is_layer(key, values)):
            continue
        stem = key.removesuffix(".weight")
        rows = values.flatten(1).abs().amax(1) / 448
        scale = rows if style == "rows" else rows.max()
        factor = scale.reshape(-1, *[1] * (values.dim() - 1))
        quantised[key] = (values / factor).to(FP8)
        plain[key] = quantised[key].float() * factor
        if style == "scale_weight":
            quantised |= {f"{stem}.scale_weight": scale, f"{stem}.scale_input": torch.tensor(0.5)}
        else:
            quantised |= {f"{stem}.weight_scale": scale, f"{stem}.input_scale": torch.tensor(0.5)}
            quantised[f"{stem}.comfy_quant"] = as_json(
                format="float8_e4m3fn", full_precision_matrix_mult=True
            )
    if style == "scale_weight":
        quantised[f"{prefix}scaled_fp8"] = torch.zeros(0, dtype=FP8)
    return quantised, plain


def same(one: DiffusersDenoiser, other: DiffusersDenoiser) -> None:
    assert is_quantised(one.unet) == one.low_memory
    x, t = draw_noise((4, 8, 8), [1, 2]), torch.tensor([10, 900])
    eps = [model.predict(x, t, model.embed(["a horse", "a zebra"])) for model in (one, other)]
    if one.low_memory:
        assert torch.allclose(*eps, atol=1e-5)  # packed convolutions round in another order
    else:
        assert torch.equal(*eps)


@pytest.mark.parametrize("style", ["scale_weight", "weight_scale", "rows"])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_scaled_fp8_in_one_file_is_multiplied_by_its_scales(
    kind: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    parts = tiny(kind)
    save_parts(tmp_path / kind, parts, {})
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
    quantised, plain = scaled(one_file(kind, parts), style, "model.diffusion_model.")
    save_file(quantised, tmp_path / "fp8.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    other = load_model(tmp_path / "plain.safetensors", device="cpu")
    for low_memory in (False, True):
        same(load_model(tmp_path / "fp8.safetensors", device="cpu", low_memory=low_memory), other)
    assert describe(str(tmp_path / "fp8.safetensors"))["networks"]["all"]["dtype"] in ("F8_E4M3", "F32")


@pytest.mark.parametrize("style", ["scale_weight", "weight_scale", "rows"])
def test_scaled_fp8_in_a_folder_is_multiplied_by_its_scales(
    style: str, checkpoint: Path, tmp_path: Path
) -> None:
    quantised, plain = scaled(load_file(checkpoint / UNET), style)
    models: list[DiffusersDenoiser] = []
    for name, state in (("fp8", quantised), ("plain", plain)):
        folder = Path(shutil.copytree(checkpoint, tmp_path / name))
        (folder / UNET).unlink()
        save_file(state, folder / UNET, metadata={"format": "pt"})
        models.append(load_model(folder, device="cpu"))
    same(*models)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("low_memory", [False, True])
def test_plain_fp8_is_read(low_memory: bool, dtype: torch.dtype, checkpoint: Path, tmp_path: Path) -> None:
    models: list[DiffusersDenoiser] = []
    for name in ("fp8", "float32"):
        folder = Path(shutil.copytree(checkpoint, tmp_path / name))
        state = {key: values.to(dtype) for key, values in load_file(folder / UNET).items()}
        if name == "float32":
            state = {key: values.float() for key, values in state.items()}
        (folder / UNET).unlink()
        save_file(state, folder / UNET, metadata={"format": "pt"})
        models.append(load_model(folder, device="cpu", low_memory=low_memory and name == "fp8"))
    same(*models)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"conv_in.comfy_quant": as_json(format="nvfp4")}, "quantised as nvfp4"),
        ({"conv_in.comfy_quant": as_json()}, "quantised as None"),
        ({"conv_in.comfy_quant": torch.zeros(3, dtype=torch.uint8)}, "cannot be loaded"),
        ({"conv_in.weight_scale": torch.ones(2, 2)}, r"conv_in.weight with a scale of shape"),
        ({"gone.weight_scale": torch.tensor(1.0)}, r"unknown tensors: gone.weight with a scale"),
        ({"conv_in.weight_scale": torch.tensor(3)}, r"unknown tensors: conv_in.weight with a scale"),
    ],
)
def test_other_kinds_of_quantisation_are_refused(
    more: State, words: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    state = {**load_file(folder / UNET), **more}
    (folder / UNET).unlink()
    save_file(state, folder / UNET, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=words):
        load_model(folder, device="cpu")


def test_scaled_fp8_of_a_text_encoder_is_read(build: Callable[..., Path]) -> None:
    folder, wanted = build(), build()
    file = "text_encoder/model.safetensors"
    quantised, plain = scaled(load_file(folder / file), "weight_scale")
    for place, state in ((folder, quantised), (wanted, plain)):
        (place / file).unlink()
        save_file(state, place / file, metadata={"format": "pt"})
    tokens = [load_model(one, device="cpu").embed(["a zebra"]).tokens for one in (folder, wanted)]
    assert torch.equal(*tokens)
