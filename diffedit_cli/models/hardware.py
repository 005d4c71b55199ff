"""What a checkpoint runs on."""

import re
from pathlib import Path

import torch

from ..errors import ModelError


def pick_device(name: str) -> torch.device:
    """The device of this name; auto is the fastest kind there is. ModelError: there is none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d{1,4}))?", name)
    if match is None or int(match[2] or 0) >= counts[match[1]]:
        raise ModelError(f"There is no device {name} here.", "Use --device cpu, or auto.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in kinds:
        raise ModelError(f"There is no dtype {name}.", f"Use auto, {', '.join(kinds)}.")
    return kinds[name]


def gains_by_bfloat16(path: Path, device: torch.device) -> bool:
    """Whether this is a CPU with bfloat16 products, and the checkpoint so large (1 GB) that they pay.

    A large one takes half the time (docs/speed.md), and its weights half the memory. On other
    CPUs it takes longer.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if device.type != "cpu" or not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files) >= 1e9
