"""Where a checkpoint is: in the package, in a folder or a file, in the hub's cache, or on the hub."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from .layout import STEMS, XL_PARTS, weight_file, weight_files
from .parts import first_sentence
from .presets import PRESETS
from .weights import ONLY_SAFE, PICKLES

EMBEDDED = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is: a folder, or a .safetensors file; and which variant of its weights to take."""

    path: Path
    variant: str | None = None


@dataclass(frozen=True)
class HubId:
    """A checkpoint on the hub. variants: those that will do, the first is fetched."""

    name: str
    revision: str | None
    variants: tuple[str | None, ...]


def find_checkpoint(name: str, *, revision: str | None, variant: str | None, offline: bool) -> Source:
    """Find a checkpoint by name; what is on the hub is looked for in its cache first, then fetched."""
    if name == "embedded":
        return Source(EMBEDDED)
    if is_local(name):
        return Source(Path(name), variant)
    hub_id = find_hub_id(name, revision, variant)
    source = find_in_cache(hub_id)
    if source is not None:
        return source
    if offline or is_offline():
        raise ModelError(
            f"{name} is not in the hub's cache.",
            f"Fetch it once, without --offline and HF_HUB_OFFLINE: diffedit models pull {name}.",
        )
    return fetch(hub_id)


def check_name(name: str) -> None:
    """ModelError for a name that no checkpoint can have. Whether the hub has it is not asked."""
    if name != "embedded" and not is_local(name):
        find_hub_id(name, None, None)


def is_local(name: str) -> bool:
    return Path(name).is_dir() or (Path(name).is_file() and name.endswith(".safetensors"))


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")


def find_hub_id(name: str, revision: str | None, variant: str | None) -> HubId:
    """What a preset's name or a hub id stands for. ModelError for a name that can be neither."""
    if name in PRESETS:
        preset = PRESETS[name]
        variants = (variant,) if variant else (preset.variant, None)
        return HubId(preset.repository, revision or preset.revision, variants)
    if name.endswith(PICKLES):
        raise ModelError(f"{name} is a pickle.", ONLY_SAFE)
    if name.endswith(".safetensors"):
        raise ModelError(f"There is no file {name}.", "Check its name.")
    if Path(name).is_file():
        raise ModelError(f"{name} is no .safetensors file.", "Give one, a folder, or a hub id.")
    if not re.fullmatch(r"\w+([.-]\w+)*/\w+([.-]\w+)*", name, re.ASCII) or len(name) > 96:
        raise ModelError(
            f"There is no model {name}.",
            f"Give embedded, {', '.join(PRESETS)}, a folder or .safetensors file that exists, or a hub id "
            f"such as {PRESETS['sd15'].repository}.",
        )
    return HubId(name, revision, (variant,))


def find_in_cache(hub_id: HubId) -> Source | None:
    """A hub id in the cache, if it is there as a whole. Nothing is asked of the network."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    for variant in hub_id.variants:
        with suppress(LocalEntryNotFoundError):
            folder = snapshot(hub_id, variant, from_cache=True)
            networks = {part for part in STEMS if (folder / part).is_dir()}
            if {"unet", "vae"} <= networks and all(weight_files(folder / p, variant) for p in networks):
                return Source(folder, variant)
    return None


def fetch(hub_id: HubId) -> Source:
    """Fetch the configs, tokenizers and the safetensors of one variant into the hub's cache."""
    with hub_errors(hub_id.name, hub_id.revision):
        folder = snapshot(hub_id, hub_id.variants[0], from_cache=False)
    return Source(folder, hub_id.variants[0])


def snapshot(hub_id: HubId, variant: str | None, *, from_cache: bool) -> Path:
    """The hub's folder of what one variant needs: found in the cache, or fetched."""
    from huggingface_hub import snapshot_download

    weights = [
        f"{part}/{file}"
        for part, stem in STEMS.items()
        for file in (weight_file(stem, variant), weight_file(stem, variant, "*-of-*"))
    ]
    small = ["README.md", "model_index.json", *(f"{part}/*.json" for part in XL_PARTS), "tokenizer*/*.txt"]
    folder = snapshot_download(
        hub_id.name,
        revision=hub_id.revision,
        allow_patterns=[*small, *weights],  # in the cache too: the whole repository never is
        local_files_only=from_cache,
    )
    return Path(folder)


@contextmanager
def hub_errors(name: str, revision: str | None) -> Generator[None, None, None]:
    """What the hub answers, as one sentence and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{name} asks you to accept its licence first.",
            "Do so on its page, then log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name} has no revision {revision}.", "Leave --revision out for the newest."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no {name}, or not for you.", "Check its spelling; some have been withdrawn."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name} could not be fetched: {first_sentence(error)}",
            "Check the network, or use `--model embedded` or a folder.",
        ) from error
