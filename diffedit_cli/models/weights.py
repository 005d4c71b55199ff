"""Files of weights: safetensors and nothing else, looked at before any other library opens them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
ONLY_SAFE = "Pickles can run code when they are opened and are never read: get the safetensors file."


def check_weights(path: Path) -> None:
    """Refuse a missing file, a pickle of whatever name, a truncated file, and one that is no safetensors."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", "Check its name.")
    if path.suffix in PICKLES:
        raise ModelError(f"{path} cannot be loaded: it is a pickle.", ONLY_SAFE)
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        with path.open("rb") as file:
            is_pickle = file.read(2).startswith((b"\x80", b"PK"))
        if is_pickle:
            raise ModelError(f"{path} cannot be loaded: it is a pickle.", ONLY_SAFE) from error
        raise ModelError(
            f"{path} cannot be loaded: it is cut short, or no safetensors file.", "Fetch it again."
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checked file, mapped from disk rather than read."""
    check_weights(path)
    return load_file(path)
