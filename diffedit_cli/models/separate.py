"""A UNet alone with the parts that go with it, or a checkpoint with other text encoders (--text-encoder)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.types import Schedule
from ..errors import ModelError
from .layout import PARTS, Layout, check_index, check_layout, check_tokenizer, find_weights, variants_in
from .networks import empty_network, read_config, read_if_there, read_json
from .parts import (
    Parts,
    Rest,
    for_text_encoder,
    known_words,
    load_folder,
    load_network,
    load_tokenizer,
    read_defaults,
)
from .schedulers import read_schedule
from .single_file import (
    CONFIGS,
    UNET,
    convert,
    has_vae,
    kind_by_texts,
    kind_of_unet,
    scheduler_config,
    tokenizers,
)
from .sources import Source
from .transformer_file import check_kind
from .weights import State, check_weights, fill, plain, read_network, shapes_in

TEXTS = ("text_encoder", "text_encoder_2")
TABLE = "embeddings.token_embedding.weight"
HELP = "Name a checkpoint of the UNet's kind, or its CLIP text encoders as files in transformers' layout."


def load_rest(names: Sequence[str], sources: Sequence[Source], dtype: torch.dtype) -> Rest:
    """What --text-encoder names: a checkpoint, whose UNet is not read, or text encoders as files.

    sources: where each of the names is. ModelError if they are not text encoders, or do not belong together.
    """
    name = " and ".join(names)
    if len(sources) == 1 and sources[0].path.is_dir():
        return rest_of_folder(name, sources[0].path, dtype)
    if folder := next((given for given, one in zip(names, sources, strict=True) if one.path.is_dir()), None):
        raise ModelError(
            f"{folder} is a folder, so no other text encoder can be given with it.", "Give it alone."
        )
    states = [read_network(given, one.path) for given, one in zip(names, sources, strict=True)]
    if len(states) == 1 and kind_by_texts(states[0]):
        return rest_of_file(name, states[0], dtype)
    return rest_of_encoders(name, names, states, dtype)


def rest_of_folder(name: str, folder: Path, dtype: torch.dtype) -> Rest:
    layout = layout_of(name, folder, None, {part: folder / part for part in (*TEXTS, "vae")})
    if "text_encoder" not in layout.files:
        raise ModelError(f"{name} holds no text encoder.", HELP)
    encoders = [load_network(layout, part, dtype) for part in layout.text_encoders]
    words: list[Any] = []
    for part, encoder in zip(layout.tokenizers, encoders, strict=True):
        check_tokenizer(name, folder / part)
        words.append(load_tokenizer(name, folder / part, encoder))
    vae = load_network(layout, "vae", torch.float32) if "vae" in layout.files else None
    rest = Rest(name, encoders, words, layout.has_zero_empty_prompt, vae)
    if "scheduler" not in layout.configs:
        return rest
    schedule, predicts_v = read_schedule(name, layout.configs["scheduler"])
    return replace(rest, schedule=schedule, predicts_v=predicts_v)


def layout_of(name: str, folder: Path, variant: str | None, places: dict[str, Path]) -> Layout:
    """What a folder holds of these networks, checked, and its scheduler.

    variant: of the weight files; without one, those that are there.
    """
    index = read_if_there(folder / "model_index.json")
    check_index(name, index)
    places = {part: place for part, place in places.items() if (place / "config.json").is_file()}
    is_xl = "text_encoder_2" in places
    layout = Layout(name, folder, is_xl, bool(index.get("force_zeros_for_empty_prompt", is_xl)))
    for part, place in places.items():
        layout.configs[part] = read_config(name, place, part)
        variants = variants_in(place, part)
        used = variants[0] if variants and variant is None else variant  # plain ones come first
        layout.files.update(find_weights(name, {part: place}, used))
    for file in (file for files in layout.files.values() for file in files):
        check_weights(file)
    if (folder / "scheduler").is_dir():
        layout.configs["scheduler"] = read_json(folder / "scheduler/scheduler_config.json")
    return layout


def rest_of_file(name: str, state: State, dtype: torch.dtype) -> Rest:
    """The text encoders and the VAE of a whole checkpoint in one file, and its schedule."""
    kind = kind_by_texts(state)
    schedule, predicts_v = read_schedule(name, scheduler_config(state, kind))
    parts = convert(name, {key: x for key, x in state.items() if not key.startswith(UNET)}, kind, dtype)
    vae = parts.vae if has_vae(state) else None
    return Rest(
        name, parts.text_encoders, parts.tokenizers, parts.has_zero_empty_prompt, vae, schedule, predicts_v
    )


def rest_of_encoders(name: str, names: Sequence[str], states: Sequence[State], dtype: torch.dtype) -> Rest:
    """Text encoders in separate files, in any order; their kind is recognised by their widths."""
    tables = [{x.shape[-1] for key, x in state.items() if key.endswith(TABLE)} for state in states]
    for given, widths in zip(names, tables, strict=True):
        if len(widths) != 1:
            raise ModelError(f"{given} holds no text encoder of CLIP.", HELP)
    width_of = [min(widths) for widths in tables]
    for folder in sorted(CONFIGS.iterdir()):
        configs = {part: read_config(name, folder / part) for part in TEXTS if (folder / part).is_dir()}
        wanted = {config["hidden_size"]: part for part, config in configs.items()}
        if {*width_of} != {*wanted} or len(width_of) != len(wanted):
            continue
        found = {wanted[width]: place for place, width in enumerate(width_of)}
        encoders = [
            load_encoder(names[place], part, configs[part], states[place], dtype)
            for part, place in sorted(found.items())
        ]
        return Rest(name, encoders, tokenizers(folder.name), folder.name == "sdxl")
    raise ModelError(
        f"{name} do not make up the text encoders of Stable Diffusion 1.x, 2.x or XL."
        if len(names) > 1
        else f"{name} is not the text encoder of Stable Diffusion 1.x or 2.x.",
        "XL takes two of them: repeat --text-encoder.",
    )


def load_encoder(name: str, part: str, config: dict[str, Any], state: State, dtype: torch.dtype) -> Any:
    network = empty_network(name, part, config)
    return fill(name, network, for_text_encoder(network, plain(state, torch.float32)), dtype)


def load_unet_folder(
    name: str, source: Source, dtype: torch.dtype, rest: Rest, *, room: int | None = None
) -> Parts:
    """A folder's UNet, its VAE, schedule and defaults where it has them, and the text encoders of `rest`.

    If there is no VAE, that of the result has no weights.
    """
    folder = source.path
    if all((folder / part).is_dir() for part in PARTS):
        layout = check_layout(name, folder, source.variant)
        return rest.given_to(name, load_folder(layout, dtype, room=room))
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    layout = layout_of(name, folder, source.variant, {"unet": place, "vae": folder / "vae"})
    if "unet" not in layout.files:
        raise ModelError(f"{name} holds no UNet.", "Give a folder with unet/config.json.")
    if "scheduler" in layout.configs:
        schedule, predicts_v = read_schedule(name, layout.configs["scheduler"])
    elif rest.schedule is not None:
        schedule, predicts_v = rest.schedule, rest.predicts_v
    else:
        schedule, predicts_v = usual_schedule(name, rest.name, read_network(name, *layout.files["unet"]))
    vae = load_network(layout, "vae", torch.float32) if "vae" in layout.files else rest.vae
    parts = Parts(
        unet=load_network(layout, "unet", dtype, room=room),
        vae=vae if vae is not None else empty_vae(name, is_xl=len(rest.text_encoders) == 2),
        text_encoders=[],
        tokenizers=[],
        schedule=schedule,
        predicts_v=predicts_v,
        words=known_words(folder),
        own_defaults=read_defaults(folder),
    )
    return rest.given_to(name, parts)


def usual_schedule(name: str, of_rest: str, state: State) -> tuple[Schedule, bool]:
    """The schedule of all UNets of a kind, as for one in a file, and whether this one predicts v."""
    kind = kind_of_unet(state)
    if not kind:
        raise ModelError(
            f"Neither {name} nor {of_rest} has a scheduler.", "Name a whole checkpoint with --text-encoder."
        )
    return read_schedule(name, scheduler_config(state, kind))


def load_transformer(
    name: str,
    path: Path,
    of_rest: str,
    rest: Source,
    dtype: torch.dtype,
    *,
    room: int | None = None,
    by_turns: bool = False,
) -> Parts:
    """A transformer alone in a file, with every other part of a folder of its family, named `of_rest`. room,
    by_turns: see parts.load_folder."""
    return load_folder(layout_round(name, path, of_rest, rest), dtype, room=room, by_turns=by_turns)


def layout_round(name: str, path: Path, of_rest: str, rest: Source) -> Layout:
    """The folder's layout, with a transformer's file in place of its own. ModelError: they do not match."""
    layout = check_layout(of_rest, rest.path, rest.variant, without=["transformer"])
    check_kind(path.name, layout.kinds["transformer"], layout.configs["transformer"], shapes_in(path))
    layout.files["transformer"] = [path]
    return layout


def empty_vae(name: str, *, is_xl: bool) -> Any:
    return empty_network(name, "vae", read_config(name, CONFIGS / ("sdxl" if is_xl else "sd1") / "vae"))
