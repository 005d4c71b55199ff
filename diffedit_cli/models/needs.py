"""What a checkpoint's weights need in memory, from the heads of its files, before any weight is read."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from .gguf_file import GGUF, PLAIN, read_entries
from .hardware import has_fast_bfloat16, pick_device, pick_dtype
from .memory import free_bytes, needed_bytes
from .networks import reading
from .single_file import BESIDE_UNET
from .weights import HARMLESS

KEEPING = ("unet", "transformer", "t5", "qwen3", "qwen2_5_vl", "all")
FP8 = ("F8_E4M3", "F8_E5M2")


class Head(NamedTuple):
    """One tensor of a file. numbers: how many. bytes: that they take in the file. is_kept: in a UNet it can
    stay so in memory (quantised.py)."""

    name: str
    dtype: str
    numbers: int
    bytes: int
    is_kept: bool


def heads_of(path: Path) -> list[Head]:
    if path.suffix == GGUF:
        return [
            Head(name, entry.kind_name, entry.shape.numel(), entry.size, entry.kind not in PLAIN)
            for name, entry in read_entries(path).items()
        ]
    heads: list[Head] = []
    with reading(str(path)), safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 it is no mapping
            part = file.get_slice(name)
            dtype, numbers = part.get_dtype(), prod(part.get_shape())
            heads.append(Head(name, dtype, numbers, numbers, dtype in FP8))
    return heads


def count_tensors(heads: Sequence[Head]) -> tuple[int, str]:
    """How many values these tensors have, and the dtype of most of them."""
    counts: dict[str, int] = {}
    for head in heads:
        counts[head.dtype] = counts.get(head.dtype, 0) + head.numbers
    return sum(counts.values()), max(counts, key=lambda dtype: counts[dtype], default="")


def memory_for(
    heads: Mapping[str, Sequence[Head]], on_disk: int, *, by_turns: bool = False
) -> dict[str, Any]:
    """The bytes of the weights in the dtype of a run on this machine, of a run with them, and those free.

    heads: by network; `all` are those of a whole checkpoint in one file. on_disk: bytes of its files. kept:
    bytes of the weights if quantised ones stay as they are. by_turns: if memory is short on a CPU, the
    networks are loaded on demand. at_once: bytes of the weights that are then in memory at the same time.
    """
    device = pick_device("auto")
    dtype = torch.bfloat16 if has_fast_bfloat16(device, on_disk) else pick_dtype("auto", device)
    weights, kept = 0, dict.fromkeys(heads, 0)
    for part, some in heads.items():
        for head in some:
            if HARMLESS.fullmatch(head.name):
                continue
            is_kept = head.is_kept and part in KEEPING and not head.name.startswith(BESIDE_UNET)
            plain = head.numbers * dtype.itemsize
            weights += plain
            kept[part] += head.bytes if is_kept else plain
    alone = kept.get("vae", 0) + max((size for part, size in kept.items() if part != "vae"), default=0)
    return {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": weights,
        "kept": sum(kept.values()),
        "at_once": alone if by_turns and device.type == "cpu" else sum(kept.values()),
        "run": needed_bytes(weights),
        "free": free_bytes(device),
    }
