"""Where a checkpoint is: in the package, in a folder or a file, in the hub's cache, or on the hub."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
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
    if Path(name).is_dir() or (Path(name).is_file() and name.endswith(".safetensors")):
        return Source(Path(name), variant)
    hub_id = find_hub_id(name, revision, variant)
    for known in hub_id.variants:
        folder = find_cached(hub_id.name, hub_id.revision, known)
        if folder is not None:
            return Source(folder, known)
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES"):
        raise ModelError(f"{name} is not in the hub's cache.", "Run once without --offline to fetch it.")
    return Source(fetch(hub_id.name, hub_id.revision, hub_id.variants[0]), hub_id.variants[0])


def find_hub_id(name: str, revision: str | None, variant: str | None) -> HubId:
    """What a preset's name or a hub id stands for. ModelError for a name that can be neither."""
    if name in PRESETS:
        preset = PRESETS[name]
        variants = (variant,) if variant else (preset.variant, None)
        return HubId(preset.repository, revision or preset.revision, variants)
    if name.endswith(PICKLES):
        raise ModelError(f"{name} is a pickle.", ONLY_SAFE)
    if Path(name).is_file() or name.endswith(".safetensors"):
        raise ModelError(
            f"There is no file {name} of safetensors.", "Give the path of a .safetensors file that exists."
        )
    if not re.fullmatch(r"\w+([.-]\w+)*/\w+([.-]\w+)*", name, re.ASCII) or len(name) > 96:
        raise ModelError(
            f"There is no model {name}.",
            f"Give embedded, {', '.join(PRESETS)}, a folder or .safetensors file that exists, or a hub id "
            f"such as {PRESETS['sd15'].repository}.",
        )
    return HubId(name, revision, (variant,))


def wanted_files(variant: str | None) -> list[str]:
    """Patterns of the files that are fetched: configs, tokenizers, and the safetensors of one variant."""
    weights = [
        f"{part}/{file}"
        for part, stem in STEMS.items()
        for file in (weight_file(stem, variant), weight_file(stem, variant, "*-of-*"))
    ]
    return ["model_index.json", *(f"{part}/*.json" for part in XL_PARTS), "tokenizer*/*.txt", *weights]


def find_cached(name: str, revision: str | None, variant: str | None) -> Path | None:
    """The folder of a hub id in the cache, if it is there as a whole. Nothing is asked of the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    networks = [part for part in STEMS if (folder / part).is_dir()]
    is_whole = {"unet", "vae"} <= {*networks} and all(
        weight_files(folder / part, variant) for part in networks
    )
    return folder if is_whole else None


def fetch(name: str, revision: str | None, variant: str | None) -> Path:
    """Fetch a hub id into the hub's cache."""
    from huggingface_hub import snapshot_download

    with hub_errors(name, revision):
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted_files(variant)))


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


def cached_models() -> list[tuple[str, int]]:
    """Hub checkpoints in the local cache that have a UNet in safetensors: (id, bytes on disk)."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        (repo.repo_id, repo.size_on_disk)
        for repo in repos
        if any([*revision.snapshot_path.glob("unet/*.safetensors")] for revision in repo.revisions)
    )
