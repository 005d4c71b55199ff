"""The Hugging Face Hub and its cache on this machine."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from ..errors import DiffeditError, ModelError
from . import spiece
from .layout import STEMS, VOCABULARIES, find_weights, parts_in, tokenizer_of, weight_file
from .networks import first_sentence
from .weights import ONLY_SAFE

SECONDS_TO_ANSWER = 10
FIRST_FILES = ("model_index.json", "unet/config.json")  # one of them tells where the rest is
OF_UNET_ALONE = "config.json"
CORES = ("unet", "transformer")  # the networks that denoise
Needs = Literal["all", "unet", "rest", "words"]


@dataclass(frozen=True)
class HubId:
    """A checkpoint on the hub. variants: those that will do, the first is fetched. file: the name of the one
    that holds all of it, if one does. needs: what has to be there: all parts, at least a UNet, all but
    the UNet or transformer, or the tokenizers."""

    name: str
    revision: str | None
    variants: tuple[str | None, ...]
    file: str = ""
    needs: Needs = "all"


def cached_folder(hub_id: HubId) -> Path | None:
    """The folder of a checkpoint in the cache, however much of it is there. No network is used."""
    from huggingface_hub import constants, try_to_load_from_cache

    for file in (*FIRST_FILES, *([OF_UNET_ALONE] if hub_id.needs == "unet" else [])):
        found = try_to_load_from_cache(
            hub_id.name, file, cache_dir=constants.HF_HUB_CACHE, revision=hub_id.revision
        )
        if isinstance(found, str):
            return Path(found.removesuffix(file))
    return None


def cached_file(hub_id: HubId) -> Path | None:
    """The checkpoint in one file, if it is in the cache. No network is used."""
    from huggingface_hub import constants, try_to_load_from_cache

    where = constants.HF_HUB_CACHE
    found = try_to_load_from_cache(hub_id.name, hub_id.file, cache_dir=where, revision=hub_id.revision)
    return Path(found) if isinstance(found, str) else None


def lacking(hub_id: HubId, folder: Path, variant: str | None) -> str:
    """What a folder lacks to be a whole checkpoint, as a sentence; empty: nothing."""
    try:
        parts = needed_parts(hub_id, folder)
        networks = {part: folder / part for part in parts if part in STEMS}
        if parts == ("unet",) and not networks["unet"].is_dir():
            networks["unet"] = folder
        files = [place / "config.json" for place in networks.values()]
        files += [folder / "scheduler/scheduler_config.json"] if "scheduler" in parts else []
        wanted = [str(file.relative_to(folder)) for file in files]
        for part in parts:
            if part.startswith("tokenizer"):
                words = [f"{part}/{file}" for file in VOCABULARIES]
                wanted += [next((file for file in words if (folder / file).is_file()), words[-1])]
        missing = next((file for file in wanted if not (folder / file).is_file()), None)
        if missing:
            return f"{missing} is missing."
        if networks:
            find_weights(hub_id.name, networks, variant)
    except ModelError as error:
        return error.message
    return ""


def needed_parts(hub_id: HubId, folder: Path) -> tuple[str, ...]:
    """A repository with a model_index.json is meant to be complete."""
    if hub_id.needs == "unet" and not (folder / "model_index.json").is_file():
        return ("unet",)
    parts = parts_in(hub_id.name, folder)
    if hub_id.needs == "words":
        return tuple(part for part in parts if part.startswith("tokenizer"))
    return tuple(part for part in parts if part not in CORES or hub_id.needs != "rest")


def fetch(hub_id: HubId) -> None:
    """Fetch the configs, tokenizers and the safetensors of one variant into the hub's cache.

    Parts without files of the variant are fetched in plain form. Of a single-file checkpoint, only that file
    is fetched.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    folders = ["scheduler", *STEMS, *{tokenizer_of(part) for part in STEMS if "text" in part}]
    small = ["README.md", *FIRST_FILES, OF_UNET_ALONE, "tokenizer*/*.txt", f"tokenizer*/{spiece.FILE}"]
    small += [f"{part}/*.json" for part in folders]
    with hub_errors(hub_id.name, hub_id.revision):
        if hub_id.file:
            hf_hub_download(
                hub_id.name, hub_id.file, revision=hub_id.revision, etag_timeout=SECONDS_TO_ANSWER
            )
            return
        # one question without the client's retries: a hub that cannot be reached is reported at once
        info = HfApi().model_info(hub_id.name, revision=hub_id.revision, timeout=SECONDS_TO_ANSWER)
        weights = weights_to_fetch(hub_id, [file.rfilename for file in info.siblings or ()])
        snapshot_download(hub_id.name, revision=hub_id.revision, allow_patterns=[*small, *weights])


def weights_to_fetch(hub_id: HubId, files: list[str]) -> list[str]:
    """The weight files of a repository that are needed. ModelError: it has none of the variant."""

    if hub_id.needs == "words":
        return []

    def of(variant: str | None) -> dict[str, list[str]]:
        """By part."""
        found: dict[str, list[str]] = {}
        for part, stem in STEMS.items():
            patterns = [f"{part}/{weight_file(stem, variant, number)}" for number in ("", "*-of-*")]
            found[part] = [file for file in files if any(fnmatchcase(file, one) for one in patterns)]
        if hub_id.needs == "rest":
            found = {part: names for part, names in found.items() if part not in CORES}
        elif hub_id.needs == "unet" and not found["unet"]:
            stem = STEMS["unet"]
            found["unet"] = [file for file in files if file == weight_file(stem, variant)]
        return {part: names for part, names in found.items() if names}

    plain = of(None)
    for variant in hub_id.variants:
        if own := of(variant):
            return [name for names in {**plain, **own}.values() for name in names]
    wanted = f"{hub_id.name} has no {weight_file('unet/' + STEMS['unet'], hub_id.variants[0])}."
    raise ModelError(wanted, "Leave --variant out." if plain else ONLY_SAFE)


@contextmanager
def hub_errors(name: str, revision: str | None) -> Generator[None, None, None]:
    """Turns the errors of the Hub or its client into one sentence and a hint."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except DiffeditError:
        raise
    except GatedRepoError as error:
        raise ModelError(
            f"{name} requires you to accept its licence first.",
            "Do so on its page, then log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name} has no revision {revision}.", "Leave --revision out for the newest."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hub has no {name}, or you have no access to it.",
            "Check the spelling; some models have been withdrawn.",
        ) from error
    except Exception as error:  # the client's own, its HTTP library's, and the system's
        raise ModelError(
            f"{name} could not be fetched: {first_sentence(error)}",
            "Check the network and HF_ENDPOINT, or use `--model embedded` or a folder.",
        ) from error
