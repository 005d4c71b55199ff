"""Files of weights: safetensors and GGUF and nothing else, checked before any other library opens them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError
from .gguf_file import GGUF, read_entries, read_gguf
from .memory import IS_WEIGHTLESS, exceeds
from .networks import reading
from .quantised import Quantised, keep_quantised

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
SUFFIXES = (".safetensors", GGUF)
ONLY_SAFE = "Pickles can run code when they are opened and are never read: get the safetensors file."
FP8 = {torch.float8_e4m3fn, torch.float8_e5m2}
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, *FP8}
State = dict[str, Tensor | Quantised]
SCALES = ("scale_weight", "weight_scale")
FOR_FP8_PRODUCTS = ("scale_input", "input_scale")  # of activations, which stay in the run's dtype here
HARMLESS = re.compile(  # what checkpoints carry and no network takes
    r"(.*\.)?(position_ids|logit_scale)"
    r"|model_ema\..*|first_stage_model\.loss\..*|denoiser\.sigmas"
    r"|betas|logvar|lvlb_weights|(alphas|sqrt|log|posterior)_\w+|v_pred|ztsnr"
    r"|(cond_stage_model|conditioner)\..*text_projection(\.weight)?"
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..*"  # 2.x takes the last layer but one
    r"|(vision_model|visual_projection|text_projection)\..*"
    r"|(model\.)?visual\..*|lm_head\.weight"  # of a language model, which is to read a text here
)


def check_weights(path: Path) -> None:
    """Refuse a missing file, a pickle of whatever name, a truncated file, and one of another format."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", "Check its name.")
    if path.suffix in PICKLES:
        raise ModelError(f"{path} cannot be loaded: it is a pickle.", ONLY_SAFE)
    with reading(str(path)):
        if path.suffix == GGUF:
            read_entries(path)
            return
        try:
            with safe_open(path, "pt"):
                return
        except Exception as error:
            with path.open("rb") as file:
                is_pickle = file.read(2).startswith((b"\x80", b"PK"))
            if is_pickle:
                raise ModelError(f"{path} cannot be loaded: it is a pickle.", ONLY_SAFE) from error
            if type(error).__name__ != "SafetensorError":
                raise
            raise ModelError(
                f"{path} cannot be loaded: it is truncated, or not a safetensors file.", "Fetch it again."
            ) from error


def shapes_in(path: Path) -> dict[str, torch.Size]:
    """The shape of each tensor of a file, from its head."""
    check_weights(path)
    if path.suffix == GGUF:
        return {name: entry.shape for name, entry in read_entries(path).items()}
    with reading(str(path)), safe_open(path, "pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_weights(*paths: Path) -> dict[str, Tensor]:
    """The tensors of checked safetensors files, mapped from disk rather than read."""
    state: dict[str, Tensor] = {}
    for path in paths:
        check_weights(path)
        with reading(str(path)):
            state |= load_file(path)
    return state


def read_network(what: str, *paths: Path) -> State:
    """The weights of a network or a checkpoint, fp8 and GGUF's types as `Quantised`, mapped from disk.

    Scales of fp8 are named as ComfyUI does: `scale_weight`, or `weight_scale` with an optional `comfy_quant`.
    Raises ModelError for other kinds of quantisation.
    """
    state = read_state(what, *paths)
    return weightless(state) if IS_WEIGHTLESS.get() else state


def read_state(what: str, *paths: Path) -> State:
    if any(path.suffix == GGUF for path in paths):
        with reading(what):
            return {key: x for path in paths for key, x in read_gguf(path).items()}
    state: State = {}
    scales: dict[str, Tensor] = {}
    for key, values in read_weights(*paths).items():
        stem, _, end = key.rpartition(".")
        if end in SCALES:
            scales[f"{stem}.weight"] = values
        elif end == "comfy_quant":
            check_quantisation(what, key, values)
        elif end not in (*FOR_FP8_PRODUCTS, "scaled_fp8"):
            state[key] = of_fp8(values) if values.dtype in FP8 else values
    for key, scale in scales.items():
        weight = state.get(key)
        rows = weight.shape[0] if weight is not None and weight.shape else 1
        if weight is None or scale.numel() not in (1, rows) or scale.dtype not in FLOATS:
            raise unknown_tensors(what, [f"{key} with a scale of shape {[*scale.shape]}"])
        state[key] = scaled(weight, scale.float())
    return state


def scaled(weight: Tensor | Quantised, scale: Tensor) -> Tensor | Quantised:
    if isinstance(weight, Quantised):
        return replace(weight, scale=scale)
    return weight.float() * scale.reshape(-1, *[1] * (weight.dim() - 1))


def of_fp8(values: Tensor) -> Quantised:
    return Quantised(values.view(torch.uint8), values.dtype, values.shape)


def plain(state: Mapping[str, Tensor | Quantised], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights as tensors; those that were quantised as `dtype`."""
    return {key: x.dense(dtype) if isinstance(x, Quantised) else x for key, x in state.items()}


def weightless(state: Mapping[str, Tensor | Quantised]) -> State:
    """The shapes of weights, on the meta device; the short ones, such as biases, as they are."""
    return {
        key: x
        if len(x.shape) < 2
        else torch.empty(x.shape, dtype=x.dtype if isinstance(x, Tensor) else torch.float16, device="meta")
        for key, x in state.items()
    }


def check_quantisation(what: str, key: str, values: Tensor) -> None:
    """ModelError for a description of a layer's quantisation that names another kind than scaled fp8."""
    with reading(f"{what} {key}"):
        about: Any = json.loads(bytes(values.flatten().tolist()))
    kind = about.get("format") if isinstance(about, dict) else None
    if kind not in ("float8_e4m3fn", "float8_e5m2"):
        raise ModelError(f"{what} is quantised as {kind}, which is not supported.", "Use fp8, fp16 or fp32.")


def fill(
    what: str,
    network: Any,
    state: Mapping[str, Tensor | Quantised],
    dtype: torch.dtype,
    *,
    room: int | None = None,
) -> Any:
    """The network with these weights, as `dtype` and frozen.

    room: the bytes that a run with plain weights may take; where it takes more, layers keep quantised weights
    as they are, and compute in `dtype`. None: they never do. Raises ModelError if a weight is missing, of
    another shape or not a floating-point number, or if a tensor has no place in the network.
    """
    wanted = network.state_dict()
    refuse_gaps(what, [key for key, to in wanted.items() if key not in state or state[key].shape != to.shape])
    refuse_unknown(what, state.keys() - wanted.keys())
    ready: dict[str, Tensor] = {}
    is_short = exceeds(sum(to.numel() for to in wanted.values()), dtype, room)
    with reading(what):
        for key in wanted:
            values = state[key]
            if isinstance(values, Tensor):
                ready[key] = values
            elif not (is_short and keep_quantised(network, key, values, dtype)):
                ready[key] = values.dense(dtype)
    if strange := [key for key, values in ready.items() if values.dtype not in FLOATS]:
        raise ModelError(
            f"{what} is quantised in a way that is not supported ({min(strange)}).", "Use fp8, fp16 or fp32."
        )
    with reading(what):
        network.load_state_dict(ready, assign=True)
        for module in network.modules():
            if hasattr(module, "position_ids"):  # of CLIP; no file has to have them
                module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
        return network.to(dtype).eval().requires_grad_(False)


def refuse_gaps(what: str, missing: Iterable[str]) -> None:
    if found := [*missing]:
        told = f"{len(found)} tensors are missing or have the wrong shape, such as {min(found)}"
        if len(found) == 1:
            told = f"1 tensor is missing or has the wrong shape: {found[0]}"
        raise ModelError(
            f"{what} cannot be loaded: {told}.",
            "The file is incomplete or of another architecture; fetch it again, or use another checkpoint.",
        )


def refuse_unknown(what: str, keys: Iterable[str]) -> None:
    """ModelError for tensors that no network takes, unless they are known to have no effect."""
    if unknown := [key for key in keys if not HARMLESS.fullmatch(key)]:
        raise unknown_tensors(what, unknown)


def unknown_tensors(what: str, keys: list[str]) -> ModelError:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return ModelError(
        f"{what} holds unknown tensors: {min(keys)}{more}.",
        "Ignoring them could ruin every picture; use another file of this checkpoint.",
    )
