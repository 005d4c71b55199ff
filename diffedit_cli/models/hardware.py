"""What a checkpoint runs on."""

import torch

from ..errors import ModelError


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(name.split(":")[0], False):
        raise ModelError(f"There is no device {name} here.", "Use --device cpu, or auto.")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in kinds:
        raise ModelError(f"There is no dtype {name}.", f"Use auto, {', '.join(kinds)}.")
    return kinds[name]
