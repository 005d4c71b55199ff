"""From a name to a model that runs."""

import gc
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..settings import public_name
from .addons import add_all, split
from .denoiser import DiffusersDenoiser
from .hardware import gains_by_bfloat16, pick_device, pick_dtype
from .layout import check_layout
from .memory import free_bytes, is_short, weight_bytes
from .parts import Parts, first_sentence, load_folder
from .single_file import load_single_file
from .sources import Source, find_checkpoint


def load_model(
    name: str | os.PathLike[str] = "embedded",
    *,
    revision: str | None = None,
    variant: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    compile: bool = False,
    offline: bool = False,
    lora: Sequence[str] = (),
    embedding: Sequence[str] = (),
) -> DiffusersDenoiser:
    """Load a Stable Diffusion 1.x, 2.x or XL checkpoint.

    name: `embedded`, a preset (presets.py: sd15, sdxl, ...), a folder in diffusers' layout, a .safetensors
    file that holds all, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.
    revision, variant: of a hub id, and of its weight files (fp16). device: auto, cpu, cuda or mps.
    dtype: auto (float16 on cuda; bfloat16 for a large model on a CPU that is made for it; else float32),
    float32, float16 or bfloat16.
    low_memory: work in small pieces (denoiser.py); chosen by itself, with a notice, when memory is short.
    compile: compile the UNet's transformer blocks with torch.compile.
    offline: never ask the hub; a checkpoint that is in its cache is loaded without asking in any case.
    lora, embedding: files laid over it, as file[:scale] and file[:word] (addons.py).
    Raises ModelError with what to do.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    source = find_checkpoint(str(name), revision=revision, variant=variant, offline=offline)
    if dtype == "auto" and gains_by_bfloat16(source.path, where):
        kind = torch.bfloat16
    with without_garbage_collection():
        parts = add_all(load_parts(str(name), source, kind), lora, embedding)
        model = place(str(name), parts, where, kind, low_memory)
    if compile:
        compile_unet(model)
    model.origin = origin_of(str(name), source, model, lora, embedding, compile)
    return model


def compile_unet(model: DiffusersDenoiser) -> None:
    """Compile the blocks that the UNet repeats, one for all of their kind, and run it once.

    Raises ModelError where nothing can be compiled.
    """
    model.unet.compile_repeated_blocks(dynamic=True)
    cells = model.multiple // model.factor
    noise = torch.zeros(2, model.latent_channels, cells, cells, device=model.device)
    try:
        model.predict_eps(noise, torch.tensor([500, 500], device=model.device), model.embed(["", ""]))
    except RuntimeError as error:
        raise ModelError(
            f"The UNet cannot be compiled here: {first_sentence(error)}",
            "A C++ compiler (g++, clang) must be there. Or leave --compile out.",
        ) from error
    model.forwards, model.network_seconds = 0, 0.0


def place(
    name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool
) -> DiffusersDenoiser:
    """The model on its device; with low memory if that is asked for, or if it does not fit otherwise."""
    networks = [parts.unet, parts.vae, *parts.text_encoders]
    notices: list[str] = []
    if not low_memory and is_short(networks, device):
        low_memory = True
        notices.append(
            f"Little memory is free on {device.type} ({free_bytes(device) / 1e9:.1f} GB; the model's weights "
            f"take {weight_bytes(networks) / 1e9:.1f} GB), so --low-memory is on: slower."
        )
    model = DiffusersDenoiser(name, parts, device, dtype, low_memory)
    model.notices += notices
    return model


def origin_of(
    name: str,
    source: Source,
    model: DiffusersDenoiser,
    lora: Sequence[str],
    embedding: Sequence[str],
    compile: bool,
) -> dict[str, Any]:
    """What has to be given to load this model again: keys of ModelConfig, and whether it is a local one.

    The revision of a hub id is the commit. Of local files only the last part of the path is told.
    """
    is_commit = source.path.parent.name == "snapshots"  # the layout of the hub's cache
    return {
        "model": public_name(name),
        "model_is_local": name != "embedded" and Path(name).exists(),
        "revision": source.path.name if is_commit else None,
        "variant": source.variant,
        "lora": [without_folder(given) for given in lora],
        "embedding": [without_folder(given) for given in embedding],
        "device": str(model.device),
        "low_memory": model.low_memory,
        "compile": compile,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def without_folder(given: str) -> str:
    """file[:value] without the file's folder."""
    file, value = split(given)
    return Path(file).name + (f":{value}" if value else "")


def pull(name: str, *, revision: str | None = None, variant: str | None = None) -> Source:
    """Fetch a preset or a hub id, unless it is in the cache as a whole, and check that it can be run.

    The hub's own progress bars go to stderr. Raises ModelError with what to do.
    """
    source = find_checkpoint(name, revision=revision, variant=variant, offline=False)
    if source.path.is_dir():
        check_layout(name, source.path, source.variant)
    return source


def load_parts(name: str, source: Source, dtype: torch.dtype) -> Parts:
    if source.path.is_file():
        return load_single_file(name, source.path, dtype)
    return load_folder(check_layout(name, source.path, source.variant), dtype, source.variant)


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
