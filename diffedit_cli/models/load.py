"""From a name to a model that runs."""

import gc
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.types import Report, silent
from ..errors import ModelError, SettingError
from ..settings import ModelConfig, build, flatten, public_name
from .addons import add_all, check_files, split
from .chroma import ChromaDenoiser
from .compiled import OpenvinoUNet, products
from .converted import Converted, convert, folders_for, is_there, may_be_converted, read_about, read_parts
from .denoiser import DiffusersDenoiser
from .few_steps import defaults_of
from .flow_files import load_files
from .flux import FluxDenoiser
from .flux2 import Flux2Denoiser
from .given import (
    check_flow,
    files_of_flow,
    flow_of_texts,
    given_apart,
    own_vae,
    source_of,
    sources_of_texts,
    words_for,
)
from .hardware import device_of, gains_by_bfloat16, openvino_dtypes, pick_dtype
from .layout import check_layout
from .memory import OnDemand, free_bytes, is_short, weight_bytes
from .networks import first_sentence
from .parts import Parts, Rest, check_fit, known_words, load_folder, read_defaults
from .pipelines import model_of_pipeline
from .quantised import is_quantised
from .quiet import quiet
from .qwenimage import QwenImageDenoiser
from .sd3 import SD3Denoiser
from .separate import load_rest, load_transformer, load_unet_folder
from .single_file import load_single_file
from .sources import Source, find_checkpoint, local_path
from .unet import UNetDenoiser
from .vae import load_vae
from .zimage import ZImageDenoiser

DENOISERS: dict[str, type[DiffusersDenoiser]] = {
    "sd3": SD3Denoiser,
    "flux": FluxDenoiser,
    "chroma": ChromaDenoiser,
    "flux2": Flux2Denoiser,
    "qwenimage": QwenImageDenoiser,
    "zimage": ZImageDenoiser,
}


def load_model(model: Any = "embedded", **settings: Any) -> DiffusersDenoiser:
    """Load a checkpoint of Stable Diffusion 1.x, 2.x, XL, 3 or 3.5, or of FLUX.1, FLUX.2 klein, Chroma,
    Qwen-Image or Z-Image.

    model: `embedded`, a preset (presets.py: sd15, sdxl, ...), a folder in diffusers' layout, a .safetensors
    or .gguf file with all parts, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5. With
    `text_encoder`, a UNet or a transformer alone will do. Or a loaded diffusers pipeline: its networks are
    used as they are, and shared with it (pipelines.py). settings: the other fields of ModelConfig, where each
    is described: revision, variant, lora, ... For `lora`, `embedding` and `text_encoder`, a single one may be
    given as a plain string.

    Nothing changes in the caller's process: logging levels, progress bars, warning filters, the random state
    and the environment stay as they were. A model can be shared by threads and copied by copy.deepcopy.
    Processes that use it must be spawned and load it themselves: after a fork torch's threads are gone, and a
    run waits for them forever.

    Raises SettingError for a setting that is unknown or out of range, ModelError for a checkpoint that cannot
    be used, and MemoryShort if it does not fit into memory.
    """
    if not isinstance(model, (str, os.PathLike)):
        return model_of_pipeline(model, build(ModelConfig, settings))
    config = build(ModelConfig, settings, {"model": os.fspath(model)})
    device = device_of(config)
    check_files(config.lora, config.embedding)  # before anything is fetched
    source = source_of(config)
    is_flow = check_flow(config, source)
    converted = None if is_flow else find_converted(config, source, device)
    if converted:
        dtype = products(converted[0])
    elif config.dtype == "auto" and (
        gains_by_bfloat16(source.path, device) or (is_flow and device.type == "cuda")  # float16 overflows
    ):
        dtype = torch.bfloat16
    else:
        dtype = pick_dtype(config.dtype, device)
    own = defaults_of(config.model, source.path, config.lora, config.text_encoder)
    is_by_turns = is_flow and device.type == "cpu"
    hush = nullcontext if converted and not config.embedding else quiet  # whose imports take seconds
    with without_garbage_collection(), hush():
        if converted:
            parts = converted_parts(config, source, dtype, converted[1])
        else:
            parts = load_all(config, source, dtype, room=room_for(config, device), by_turns=is_by_turns)
        parts = with_defaults(parts, own)
        loaded = place(config.model, parts, device, dtype, config.low_memory)
    if config.compile:
        compile_network(loaded)
    loaded.notices += unused_settings(config, source, is_by_turns=is_by_turns and loaded.low_memory)
    loaded.origin = origin_of(config, source, loaded)
    return loaded


def room_for(config: ModelConfig, device: torch.device) -> int | None:
    """The bytes available for plain weights; a UNet that needs more keeps its quantised ones. None: it never
    does.

    A LoRA needs plain weights, and compilation is meant for speed.
    """
    if config.lora or config.compile:
        return None
    return 0 if config.low_memory else free_bytes(device)


def find_converted(
    config: ModelConfig, source: Source, device: torch.device, report: Report = silent
) -> tuple[torch.dtype, Path] | None:
    """The networks for OpenVINO to run, their dtype and folder; None: torch runs its own.

    If OpenVINO is requested, those of the best dtype, which are converted if they do not exist yet. Raises
    SettingError or ModelError if they cannot run here.
    """
    if config.engine == "torch" or (config.engine == "auto" and not may_be_converted(source)):
        return None
    folders = folders_for(source, config.lora, openvino_dtypes(config, device), given_apart(config))
    if config.engine == "auto":
        return next(((dtype, folder) for dtype, folder in folders.items() if is_there(folder)), None)
    dtype, folder = next(iter(folders.items()))
    if is_there(folder):
        return dtype, folder
    plain = replace(config, embedding=())  # they change the text encoder only
    own = defaults_of(config.model, source.path, config.lora, config.text_encoder)
    with quiet():
        convert(
            folder,
            config.model,
            config.lora,
            dtype,
            lambda: with_defaults(load_all(plain, source, torch.float32), own),
            report,
        )
    return dtype, folder


def with_defaults(parts: Parts, own: Mapping[str, Any]) -> Parts:
    """own: what suits the checkpoint by its name and files; what it declares itself takes precedence."""
    return replace(parts, own_defaults={**own, **parts.own_defaults})


def backend_of(config: ModelConfig) -> str:
    """Whether load_model would run the networks with torch or openvino; nothing is converted or loaded."""
    if config.engine != "auto":
        return config.engine
    source = source_of(config)
    return "openvino" if find_converted(config, source, device_of(config)) else "torch"


def converted_parts(config: ModelConfig, source: Source, dtype: torch.dtype, folder: Path) -> Parts:
    """The checkpoint with converted networks; textual inversions need the text encoder of torch."""
    ready = read_parts(folder, dtype)
    if config.embedding:
        return replace(load_all(config, source, dtype), unet=ready.unet, vae=ready.vae)
    return replace(ready, words=known_words(source.path), own_defaults=read_defaults(source.path))


def load_all(
    config: ModelConfig,
    source: Source,
    dtype: torch.dtype,
    *,
    room: int | None = None,
    by_turns: bool = False,
) -> Parts:
    """The checkpoint as torch runs it, with the parts that are given separately and everything that is added
    to it. room, by_turns: see parts.load_folder."""
    vae, texts = own_vae(config), sources_of_texts(config)
    tight: dict[str, Any] = {"room": room, "by_turns": by_turns}
    if (of_flow := flow_of_texts(config)) is not None:
        name = config.text_encoder[0]
        parts = load_transformer(config.model, source.path, name, of_flow, dtype, **tight)
    elif (files := files_of_flow(config, source)) is not None:
        words = words_for(config, files)
        parts = load_files(files, words, dtype, has_own_vae=vae is None, **tight)
    else:
        rest = load_rest(config.text_encoder, texts, dtype) if texts else None
        parts = load_parts(config.model, source, dtype, has_own_vae=vae is None, rest=rest, **tight)
    if vae is not None:
        kind = "vae" if parts.family is None else parts.family.vae
        parts = replace(parts, vae=load_vae(str(config.vae), vae, parts.vae.config, kind))
        check_fit(f"{config.model} with {config.vae}", parts)
    elif next(parts.vae.parameters()).requires_grad:  # no weights were filled in
        names = ", nor in ".join([config.model, *[" and ".join(config.text_encoder)] * bool(texts)])
        raise ModelError(f"There is no VAE in {names}.", "Give one with --vae.")
    return add_all(parts, config.lora, config.embedding)


def optimize(config: ModelConfig, report: Report = silent) -> Converted:
    """Convert a checkpoint's networks for OpenVINO, unless they are converted already.

    Raises as load_model does.
    """
    check_files(config.lora, ())
    source = source_of(config)
    config = replace(config, backend="openvino")
    check_flow(config, source)
    _, folder = find_converted(config, source, device_of(config), report) or (None, Path())
    return read_about(folder)[0]


def compile_network(model: DiffusersDenoiser) -> None:
    """Compile the blocks that the network repeats, each kind once, and run the network once.

    Raises SettingError for a network without such blocks, ModelError where nothing can be compiled.
    """
    if not getattr(model.unet, "_repeated_blocks", None):
        raise SettingError(f"{model.name} has no blocks that can be compiled.", "Leave --compile out.")
    model.unet.compile_repeated_blocks(dynamic=True)
    cells = model.multiple // model.factor
    noise = torch.zeros(2, model.latent_channels, cells, cells, device=model.device)
    try:
        model.predict(noise, torch.tensor([500, 500], device=model.device), model.embed(["", ""]))
    except RuntimeError as error:
        raise ModelError(
            f"The {model.network_name} cannot be compiled here: {first_sentence(error)}",
            "Install a C++ compiler (g++, clang), or leave --compile out.",
        ) from error
    model.reset_counts()


def place(
    name: str, parts: Parts, device: torch.device, dtype: torch.dtype, low_memory: bool
) -> DiffusersDenoiser:
    """The model on its device; with low memory if that is requested, or if it does not fit otherwise."""
    networks = [parts.unet, parts.vae, *parts.text_encoders]
    notices: list[str] = []
    is_by_turns = isinstance(parts.unet, OnDemand)
    if not low_memory and (is_by_turns or is_quantised(parts.unet) or is_short(networks, device)):
        low_memory = True
        notices.append(
            f"Little memory is free on {device.type} ({free_bytes(device) / 1e9:.1f} GB; the model's weights "
            f"take {weight_bytes(networks) / 1e9:.1f} GB), so --low-memory is on, which is slower."
        )
    kind = UNetDenoiser if parts.family is None else DENOISERS[parts.family.key]
    model = kind(name, parts, device, dtype, low_memory)
    model.notices += notices
    return model


def unused_settings(config: ModelConfig, source: Source, *, is_by_turns: bool) -> list[str]:
    """A notice for each setting that has no effect with this checkpoint. is_by_turns: its networks are in
    memory one at a time, except with --lora and --compile."""
    where = f"with {config.model}, which has none"
    if config.model == "embedded":
        where = "with the embedded model"
    elif source.path.is_file():
        where = "with a model in one file"
    notices = [
        f"--{key} does nothing {where}."
        for key in ("revision", "variant")
        if getattr(config, key) and not getattr(source, key)
    ]
    if is_by_turns and (why := "--lora" if config.lora else "--compile" if config.compile else ""):
        notices.append(f"With {why} --low-memory keeps all networks of {config.model} in memory.")
    return notices


def origin_of(config: ModelConfig, source: Source, model: DiffusersDenoiser) -> dict[str, Any]:
    """What is needed to load this model again: keys of ModelConfig, and whether it is a local one; also
    its own norm of the guidance, if it has one.

    The revision of a hub id is the commit. Of local files only the last part of the path is kept.
    """
    is_local = local_path(config.model) is not None
    used = replace(
        config,
        model=public_name(config.model) if is_local else config.model,
        revision=source.revision,
        variant=source.variant,
        lora=tuple(map(without_folder, config.lora)),
        embedding=tuple(map(without_folder, config.embedding)),
        vae=None if config.vae is None else public_name(config.vae),
        text_encoder=tuple(map(public_name, config.text_encoder)),
        device=str(model.device),
        low_memory=model.low_memory,
        dtype="int8" if config.dtype == "int8" else str(model.dtype).removeprefix("torch."),
        backend="openvino" if isinstance(model.unet, OpenvinoUNet) else "torch",
    )
    stored = {key: value for key, value in flatten(used).items() if key != "offline"}
    norm = model.own_defaults.get("guidance_norm")
    return {**stored, "model_is_local": is_local, **({"own_norm": norm} if norm else {})}


def without_folder(given: str) -> str:
    """file[:value] without the file's folder."""
    file, value = split(given)
    return Path(file).name + (f":{value}" if value else "")


def pull(name: str, *, revision: str | None = None, variant: str | None = None) -> Source:
    """Fetch a preset or a Hub id, unless all of it is in the cache, and check that it can be run.

    The Hub client's own progress bars go to stderr. Raises ModelError with what to do.
    """
    source = find_checkpoint(name, revision=revision, variant=variant, offline=False)
    if source.path.is_dir():
        check_layout(name, source.path, source.variant)
    return source


def load_parts(
    name: str,
    source: Source,
    dtype: torch.dtype,
    *,
    has_own_vae: bool = True,
    rest: Rest | None = None,
    room: int | None = None,
    by_turns: bool = False,
) -> Parts:
    """The parts of a checkpoint. has_own_vae, rest, room: see `load_single_file`; by_turns: `load_folder`."""
    if source.path.is_file():
        return load_single_file(name, source.path, dtype, has_own_vae=has_own_vae, rest=rest, room=room)
    if rest is not None:
        return load_unet_folder(name, source, dtype, rest, room=room)
    layout = check_layout(name, source.path, source.variant)
    return load_folder(layout, dtype, room=room, by_turns=by_turns)


@contextmanager
def without_garbage_collection() -> Generator[None, None, None]:
    """Imports and loading create a million objects that stay alive; every garbage collection would walk all
    of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
