"""What a checkpoint runs on."""

import re
from pathlib import Path

import torch

from ..errors import DiffeditError, ModelError, SettingError
from ..settings import ModelConfig
from .compiled import has_bfloat16, is_installed


def pick_device(name: str) -> torch.device:
    """The device of this name; auto is the fastest kind available. ModelError: there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d{1,4}))?", name)
    if match is None or int(match[2] or 0) >= counts[match[1]]:
        raise ModelError(f"There is no device {name} here.", "Use --device cpu, or auto.")
    return torch.device(name)


def device_of(config: ModelConfig) -> torch.device:
    """The device of these settings; if OpenVINO is requested, auto is the CPU."""
    return pick_device("cpu" if (config.device, config.engine) == ("auto", "openvino") else config.device)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in kinds:
        raise ModelError(f"There is no dtype {name}.", f"Use auto, {', '.join(kinds)}.")
    return kinds[name]


def gains_by_bfloat16(path: Path, device: torch.device) -> bool:
    """Whether a checkpoint should run in bfloat16 here by default."""
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return has_fast_bfloat16(device, sum(file.stat().st_size for file in files))


def has_fast_bfloat16(device: torch.device, size: int) -> bool:
    """Whether this CPU has bfloat16 instructions and a checkpoint of `size` bytes is large enough to benefit.

    A large one takes half the time (docs/speed.md), and its weights half the memory. On other
    CPUs it takes longer.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    is_fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return device.type == "cpu" and bool(is_fast) and size >= 1e9


def openvino_dtypes(config: ModelConfig, device: torch.device) -> list[torch.dtype]:
    """The dtypes of converted networks that may run here, the best first; empty: torch is to run its own.

    int8 is of the UNet alone. Raises SettingError or ModelError where OpenVINO is asked for and cannot run.
    """
    if config.compile:  # which is for torch's networks
        return []
    obstacle = why_no_openvino(config, device)
    if obstacle and config.engine == "openvino":
        raise obstacle
    if obstacle:
        return []
    wanted = {
        "auto": [torch.bfloat16, torch.float32],
        "bfloat16": [torch.bfloat16],
        "int8": [torch.int8],
    }
    dtypes = wanted.get(config.dtype, [torch.float32])
    return dtypes if torch.bfloat16 not in dtypes or has_bfloat16() else dtypes[1:]


def why_no_openvino(config: ModelConfig, device: torch.device) -> DiffeditError | None:
    """What keeps OpenVINO from running a model's networks with these settings on this machine."""
    use_torch = "or let torch run the model."
    if not is_installed():
        return ModelError(
            "OpenVINO needs the package openvino, which is not installed.",
            f"pip install 'diffedit-cli[openvino]', {use_torch}",
        )
    if device.type != "cpu":
        return SettingError(
            f"OpenVINO runs on the CPU, and not on {device}.", f"Use --device cpu, {use_torch}"
        )
    if config.dtype == "float16" or (config.dtype == "bfloat16" and not has_bfloat16()):
        return SettingError(
            f"OpenVINO does not compute in {config.dtype} on this CPU.", f"Use --dtype auto, {use_torch}"
        )
    return None
