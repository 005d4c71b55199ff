"""Which checkpoints there are, and what one of them is. Nothing here loads a network or contacts the Hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .families import Family, family_of, suited
from .few_steps import FewSteps, defaults_of, of_checkpoint
from .flow_files import FlowFiles, find_files, listed
from .flow_schedule import describe_flow, read_flow
from .layout import Layout, check_layout
from .needs import Head, count_tensors, heads_of, memory_for
from .networks import native_cells, read_if_there, read_json
from .parts import known_words, read_defaults
from .presets import PRESETS, Preset
from .schedulers import describe_schedule, read_schedule
from .single_file import (
    CONFIGS,
    has_vae,
    kind_by_texts,
    predicts_v,
    recognise,
    scheduler_config,
    with_prefix,
)
from .sources import EMBEDDED, find_checkpoint, find_hub_id, find_in_cache
from .weights import read_network

TARGETS = {False: "epsilon", True: "v_prediction"}
KINDS = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}


@dataclass(frozen=True)
class Entry:
    """A checkpoint that can be named. bytes: on disk, or to fetch if it is not there yet."""

    name: str
    about: str
    licence: str
    bytes: int
    is_here: bool


def catalogue() -> list[Entry]:
    """The embedded model, the presets, and whatever else is in the hub's cache."""
    cached = dict(cached_models())
    entries = [
        Entry("embedded", "comes with the package", licence_of(EMBEDDED), folder_bytes(EMBEDDED), True)
    ]
    for name, preset in PRESETS.items():
        is_here = find_in_cache(find_hub_id(name, None, None)) is not None
        on_disk = cached.pop(preset.repository, preset.bytes) if is_here else preset.bytes
        entries.append(Entry(name, f"{preset.about}, {preset.side} pixels", preset.licence, on_disk, is_here))
    for name, on_disk in cached.items():
        source = find_in_cache(find_hub_id(name, None, None))
        entries.append(Entry(name, "", licence_of(source.path) if source else "", on_disk, True))
    return entries


def cached_models() -> list[tuple[str, int]]:
    """Hub checkpoints in the local cache that can be run (see is_checkpoint): (id, bytes on disk)."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        (repo.repo_id, repo.size_on_disk)
        for repo in repos
        if any(is_checkpoint(revision.snapshot_path) for revision in repo.revisions)
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the safetensors of a UNet, or of a transformer of a known family."""
    try:
        part = "unet" if family_of(folder.name, folder) is None else "transformer"
    except ModelError:
        return False
    return any(folder.glob(f"{part}/*.safetensors"))


def describe(name: str, *, revision: str | None = None, variant: str | None = None) -> dict[str, Any]:
    """What a checkpoint is, in plain values, from its small files and the heads of its weight files.

    A preset that is not fetched yet is described by its table. Raises ModelError as `load_model` does.
    """
    preset, own_values = PRESETS.get(name), own_defaults(name, revision=revision, variant=variant)
    if preset and find_in_cache(find_hub_id(name, revision, variant)) is None:
        return {"name": name, "is_here": False, **describe_preset(preset), "defaults": own_values}
    source = find_checkpoint(name, revision=revision, variant=variant, offline=True)
    if source.path.is_file():
        own = describe_file(name, source.path)
    else:
        own = describe_folder(check_layout(name, source.path, source.variant))
    licence = preset.licence if preset else licence_of(source.path)
    told = {"defaults": own_values, "licence": licence, "path": str(source.path)}
    return {"name": name, "is_here": True, **own, **told}


def own_defaults(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    lora: Sequence[str] = (),
    text_encoder: Sequence[str] = (),
) -> dict[str, Any]:
    """A checkpoint's own defaults: those of its family (families.py) or as a few-step model (few_steps.py),
    overridden by those that it declares itself (parts.read_defaults), if it is here."""
    path = place_of(name, revision, variant)
    return {**defaults_of(name, path, lora, text_encoder), **(read_defaults(path) if path else {})}


def few_steps(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    lora: Sequence[str] = (),
    text_encoder: Sequence[str] = (),
) -> FewSteps | None:
    """Recognise a few-step model by its names and, if it is here, its small files."""
    return of_checkpoint(name, place_of(name, revision, variant), lora, text_encoder)


def place_of(name: str, revision: str | None, variant: str | None) -> Path | None:
    """Where a checkpoint is, if it is here."""
    try:
        return find_checkpoint(name, revision=revision, variant=variant, offline=True).path
    except ModelError:
        return None


def own_words(
    name: str, *, revision: str | None = None, variant: str | None = None
) -> dict[str, list[str]] | None:
    """The vocabulary that a checkpoint declares for itself (parts.known_words), if it is here."""
    path = place_of(name, revision, variant)
    return None if path is None else known_words(path)


def describe_preset(preset: Preset) -> dict[str, Any]:
    return {
        "about": preset.about,
        "side": preset.side,
        "parameters": preset.parameters,
        "bytes": preset.bytes,
        "memory": memory_for(
            {"all": [Head("all", "F16", preset.parameters, preset.bytes, False)]}, preset.bytes
        ),
        "licence": preset.licence,
        "repository": preset.repository,
        "revision": preset.revision,
        "variant": preset.variant,
    }


def describe_folder(layout: Layout) -> dict[str, Any]:
    """Kind, target, scheduler, side in pixels, and the parameters and dtypes of each network."""
    files = layout.files
    heads = {part: [head for path in paths for head in heads_of(path)] for part, paths in files.items()}
    counts = {part: count_tensors(some) for part, some in heads.items()}
    on_disk = sum(path.stat().st_size for paths in files.values() for path in paths)
    vae = layout.configs["vae"]
    levels = len(vae.get("block_out_channels") or vae.get("dim_mult", [0]))
    unet = layout.configs[layout.networks[0]]
    is_large = layout.is_xl or layout.family is not None
    return {
        **(describe_unet(layout) if layout.family is None else describe_transformer(layout, layout.family)),
        "side": native_cells(unet, is_large) * 2 ** (levels - 1),
        "parameters": sum(count for count, _ in counts.values()),
        "networks": {part: {"parameters": count, "dtype": dtype} for part, (count, dtype) in counts.items()},
        "bytes": on_disk,
        "memory": memory_for(heads, on_disk, by_turns=layout.family is not None),
    }


def describe_unet(layout: Layout) -> dict[str, Any]:
    unet, scheduler = layout.configs["unet"], layout.configs["scheduler"]
    kind = "sdxl" if layout.is_xl else "sd2" if unet.get("cross_attention_dim") == 1024 else "sd1"
    schedule, predicts_v = read_schedule(layout.name, scheduler)
    return {
        "kind": KINDS[kind],
        "predicts": TARGETS[predicts_v],
        "scheduler": describe_schedule(scheduler, schedule),
    }


def describe_transformer(layout: Layout, family: Family) -> dict[str, Any]:
    config, index = layout.configs["transformer"], read_if_there(layout.folder / "model_index.json")
    return {
        "kind": suited(layout.name, family, config, index).name,
        "predicts": "velocity of a flow",
        "scheduler": describe_flow(read_flow(layout.name, layout.configs["scheduler"], family)),
    }


def describe_file(name: str, path: Path) -> dict[str, Any]:
    """The same of a checkpoint in one file; of a UNet alone also what it lacks."""
    if files := find_files(name, path):
        return describe_flow_files(files)
    state = with_prefix(read_network(name, path))
    kind = recognise(name, state, has_own_vae=False, has_own_texts=False)
    is_v = predicts_v(state, kind)
    config = scheduler_config(state, kind)
    cells = read_json(CONFIGS / kind / "unet/config.json")["sample_size"]
    there = {"text encoders (--text-encoder)": kind_by_texts(state), "VAE (--vae)": has_vae(state)}
    lacks = [part for part, is_there in there.items() if not is_there]
    holds = "unet" if len(lacks) == len(there) else "all"
    return {
        "kind": KINDS[kind],
        "predicts": TARGETS[is_v],
        "scheduler": describe_schedule(config, read_schedule(name, config)[0]),
        "side": 8 * (96 if kind == "sd2" and is_v else cells),
        "lacks": lacks,
        **sizes_of(path, {holds: heads_of(path)}),
    }


def describe_flow_files(files: FlowFiles) -> dict[str, Any]:
    """The same of a transformer in a file, alone or with other parts."""
    texts = "text encoders" if not files.encoders else listed(files.lacking, files.kind)
    there = {f"{texts} (--text-encoder)": not texts, "VAE (--vae)": files.vae}
    path, held = files.transformer.path, {"transformer": files.transformer, **files.encoders}
    pieces = held | ({"vae": files.vae} if files.vae else {})
    heads = heads_of(path)
    parts = {
        part: [head for head in heads if head.name.startswith(piece.prefix)] for part, piece in pieces.items()
    }
    return {
        "kind": files.suited.name,
        "predicts": "velocity of a flow",
        "side": 1024,
        "lacks": [part for part, is_there in there.items() if not is_there],
        **sizes_of(path, parts, by_turns=True),
    }


def sizes_of(path: Path, heads: Mapping[str, Sequence[Head]], *, by_turns: bool = False) -> dict[str, Any]:
    """What a file takes. heads, by_turns: see needs.memory_for."""
    counts, on_disk = {part: count_tensors(some) for part, some in heads.items()}, path.stat().st_size
    return {
        "parameters": sum(count for count, _ in counts.values()),
        "networks": {part: {"parameters": count, "dtype": dtype} for part, (count, dtype) in counts.items()},
        "bytes": on_disk,
        "memory": memory_for(heads, on_disk, by_turns=by_turns),
    }


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def licence_of(path: Path) -> str:
    """What the model card in a folder says, empty if there is none."""
    card = path / "README.md"
    if not card.is_file():
        return ""
    head = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*(.+)$", head[1] if head else "", re.MULTILINE)
    return found[1].strip().strip("'\"") if found else ""
