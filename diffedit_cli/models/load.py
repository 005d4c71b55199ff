"""From a name to a model that runs."""

import gc
import os
from collections.abc import Generator
from contextlib import contextmanager

from .denoiser import DiffusersDenoiser
from .hardware import pick_device, pick_dtype
from .layout import check_layout
from .parts import load_folder
from .sources import find_checkpoint


def load_model(
    name: str | os.PathLike[str] = "embedded",
    *,
    revision: str | None = None,
    variant: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
) -> DiffusersDenoiser:
    """Load a Stable Diffusion 1.x, 2.x or XL checkpoint in diffusers' layout.

    name: `embedded`, a folder, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.
    revision, variant: of a hub id, and of its weight files (fp16). device: auto, cpu, cuda or mps.
    dtype: auto (float16 on cuda, else float32), float32, float16 or bfloat16.
    offline: never ask the hub; a checkpoint that is in its cache is loaded without asking in any case.
    Raises ModelError with what to do.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    folder = find_checkpoint(str(name), revision=revision, variant=variant, offline=offline)
    layout = check_layout(str(name), folder, variant)
    with without_garbage_collection():
        return DiffusersDenoiser(str(name), load_folder(layout, kind, variant), where, kind)


@contextmanager
def without_garbage_collection() -> Generator[None, None, None]:
    """Imports and loading make a million objects that stay; each search for garbage walks all of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
