"""Where a checkpoint is: in the package, in a folder or a file, in the Hub's cache, or on the Hub.

A name of the package (embedded, sd15, ...) always means that checkpoint; a folder of the same name is given
as ./sd15. Any other name is first looked for as a folder or file, and is a hub id otherwise.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelError
from .hub import HubId, Needs, cached_file, cached_folder, fetch, lacking
from .presets import PRESETS
from .weights import ONLY_SAFE, PICKLES, SUFFIXES

EMBEDDED = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is: a folder, or a .safetensors file; and which variant of its weights to take.

    revision: the commit, of a checkpoint in the hub's cache.
    """

    path: Path
    variant: str | None = None
    revision: str | None = None


def find_checkpoint(
    name: str, *, revision: str | None, variant: str | None, offline: bool, needs: Needs = "all"
) -> Source:
    """Find a checkpoint by name. What is on the hub is looked for in its cache first, then fetched.

    needs: see HubId.
    """
    if name == "embedded":
        return Source(EMBEDDED)
    path = local_path(name)
    if path is not None:
        return Source(path.absolute(), variant if path.is_dir() else None)  # it may be read again elsewhere
    hub_id = replace(find_hub_id(name, revision, variant), needs=needs)
    if needs == "rest" and not hub_id.file:
        hub_id = replace(hub_id, variants=(*hub_id.variants, "fp16"))
    source = find_in_cache(hub_id)
    if source is not None:
        return source
    if offline or is_offline():
        folder = cached_folder(hub_id)
        if folder is None:
            why = f"{name} is not in the Hub's cache."
        else:
            why = (
                f"Only a part of {name} is in the Hub's cache: {lacking(hub_id, folder, hub_id.variants[-1])}"
            )
        online = "without --offline and HF_HUB_OFFLINE"
        if needs == "words":
            raise ModelError(why, f"Run once {online}: its small files alone are fetched.")
        raise ModelError(why, f"Fetch it once, {online}: diffedit models pull {name}.")
    fetch(hub_id)
    return find_in_cache(hub_id) or in_cache(hub_id, hub_id.variants[0])


def first_folder(names: Sequence[str]) -> Path | None:
    """Where the first of these checkpoints is that is here as a folder, with its small files at least."""
    for name in names:
        with suppress(ModelError):
            found = find_checkpoint(name, revision=None, variant=None, offline=True, needs="words").path
            if found.is_dir():
                return found
    return None


def check_name(name: str) -> None:
    """ModelError for a name that no checkpoint can have. Whether the hub has it is not asked."""
    if name != "embedded" and local_path(name) is None:
        find_hub_id(name, None, None)


def local_path(name: str) -> Path | None:
    """The folder or file of weights that a name stands for, ~ expanded; None: it stands for none."""
    if name == "embedded" or name in PRESETS:
        return None
    path = os.path.expanduser(name)
    is_file = path.endswith(SUFFIXES) and os.path.isfile(path)
    return Path(path) if is_file or os.path.isdir(path) else None


def full_name(name: str) -> str:
    """The name of a checkpoint that means the same in every folder."""
    path = local_path(name)
    return name if path is None else str(path.resolve())


def files_of(path: Path) -> list[Path]:
    """A file, or the files of a checkpoint that are read, in order."""
    kinds = (*SUFFIXES, ".json", ".txt")
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in kinds)


def bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, or of a checkpoint's files with their names."""
    digest = hashlib.sha256()
    try:
        for file in files_of(path):
            digest.update(f"{file.relative_to(path)}\n".encode())
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
    except OSError as error:
        raise ModelError(
            f"{path.name} cannot be read ({error.strerror}).", "Check its permissions."
        ) from error
    return digest.hexdigest()


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")


def find_hub_id(name: str, revision: str | None, variant: str | None) -> HubId:
    """What a preset's name or a hub id stands for. ModelError for a name that can be neither."""
    if name in PRESETS:
        preset = PRESETS[name]
        variants = (variant,) if variant else (preset.variant, None)
        return HubId(preset.repository, revision or preset.revision, variants, preset.file)
    if name.endswith(PICKLES):
        raise ModelError(f"{name} is a pickle.", ONLY_SAFE)
    if name.endswith(SUFFIXES):
        raise ModelError(f"There is no file {name}.", "Check its name.")
    if os.path.isfile(os.path.expanduser(name)):
        raise ModelError(f"{name} is not a .safetensors or .gguf file.", "Give one, a folder, or a Hub id.")
    if not re.fullmatch(r"\w+([.-]\w+)*/\w+([.-]\w+)*", name, re.ASCII) or len(name) > 96:
        raise ModelError(
            f"There is no model {name}." if name else "The model has no name.",
            f"Give embedded, {', '.join(PRESETS)}, a folder, a .safetensors or .gguf file that exists, or a "
            f"Hub id such as {PRESETS['sd15'].repository}.",
        )
    return HubId(name, revision, (variant,))


def find_in_cache(hub_id: HubId) -> Source | None:
    """A hub id in the cache, if it is there as a whole. No network is used."""
    if hub_id.file:
        file = cached_file(hub_id)
        return None if file is None else Source(file, None, file.parent.name)
    folder = cached_folder(hub_id)
    if folder is not None:
        for variant in hub_id.variants:
            if not lacking(hub_id, folder, variant):
                return Source(folder, variant, folder.name)
    return None


def in_cache(hub_id: HubId, variant: str | None) -> Source:
    """A checkpoint in the cache, be it whole or not; ModelError if there is nothing of it."""
    folder = cached_folder(hub_id)
    if folder is None:
        raise ModelError(f"{hub_id.name} holds no checkpoint.", "Check its page: it must have a UNet.")
    return Source(folder, variant, folder.name)
