"""What a folder holds, read from its small files, and refused with a reason before a weight is read."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import ModelError
from . import spiece
from .families import Family, family_of
from .networks import CLASSES, read_config, read_if_there, read_json
from .weights import ONLY_SAFE, check_weights

STEMS = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PARTS = (*PARTS, "text_encoder_2", "tokenizer_2")
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # those that model_index.json may name
MOST_EXTRA = 10**4
VOCABULARIES = ("tokenizer.json", spiece.FILE, "vocab.json")  # a tokenizer has one of them
HELP_FOLDER = "Give a folder in diffusers' layout of a model that is supported (docs/checkpoints.md)."


@dataclass(frozen=True)
class Layout:
    """A folder that passed `check_layout`. is_xl: its UNet is XL's. family: of its transformer, if there is
    one. configs: of each network and of the scheduler. files: the weight files of each network."""

    name: str
    folder: Path
    is_xl: bool
    has_zero_empty_prompt: bool
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    family: Family | None = None

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(part for part in self.kinds if part.startswith("text_encoder"))

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return tuple(tokenizer_of(part) for part in self.text_encoders)

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each network (see networks.read_config)."""
        return kinds_in(self.folder, self.family, is_xl=self.is_xl)


def kinds_in(folder: Path, family: Family | None, *, is_xl: bool) -> dict[str, str]:
    """The kind of each network that a folder has to hold.

    An optional one counts if model_index.json names it; where that says nothing, if it is there.
    """
    if family is None:
        parts = ("unet", "vae", "text_encoder", *(("text_encoder_2",) if is_xl else ()))
        return {part: part for part in parts}
    index = read_if_there(folder / "model_index.json")
    named = index.get(family.optional)
    has_it = any(named) if isinstance(named, list) else (folder / family.optional).is_dir()
    return {part: kind for part, kind in family.kinds.items() if part != family.optional or has_it}


def tokenizer_of(text_encoder: str) -> str:
    return text_encoder.replace("text_encoder", "tokenizer")


def parts_in(name: str, folder: Path) -> tuple[str, ...]:
    """The parts of a folder's family, whether they are there or not."""
    family = family_of(name, folder)
    if family is None:
        return XL_PARTS if has_two_encoders(folder) else PARTS
    kinds = kinds_in(folder, family, is_xl=False)
    encoders = [part for part in kinds if part.startswith("text_encoder")]
    return (*kinds, *map(tokenizer_of, encoders), "scheduler")


def check_layout(
    name: str, folder: Path, variant: str | None = None, *, without: Collection[str] = ()
) -> Layout:
    """Refuse a folder of an unsupported family or without safetensors, or one that wants code to be run.

    variant: of the weight files; a part without it may have plain ones. without: networks whose weights
    are not needed.
    """
    index = read_if_there(folder / "model_index.json")
    check_index(name, index)
    family, is_xl = family_of(name, folder), has_two_encoders(folder)
    if is_xl and (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise ModelError(f"{name} is the SDXL refiner, which only polishes pictures.", "Use SDXL base.")
    missing = [part for part in parts_in(name, folder) if not (folder / part).is_dir()]
    if missing:
        hint = f"{HELP_FOLDER} Or add --text-encoder to a UNet alone." if has_unet(folder) else HELP_FOLDER
        raise ModelError(f"{name} lacks {', '.join(missing)}.", hint)
    zeros = bool(index.get("force_zeros_for_empty_prompt", is_xl))
    layout = Layout(name, folder, is_xl, zeros, family=family)
    for part, kind in layout.kinds.items():
        layout.configs[part] = read_config(name, folder / part, kind)
    layout.configs["scheduler"] = read_json(folder / "scheduler/scheduler_config.json")
    for part in layout.tokenizers:
        check_tokenizer(name, folder / part)
    places = {part: folder / part for part in layout.networks if part not in without}
    if places:
        layout.files.update(find_weights(name, places, variant))
    for file in (file for files in layout.files.values() for file in files):
        check_weights(file)
    return layout


def has_unet(folder: Path) -> bool:
    """Whether a folder holds a UNet, or is the folder of one."""
    own = folder / "config.json"
    kind = read_json(own).get("_class_name") if own.is_file() else None
    return (folder / "unet").is_dir() or kind == CLASSES["unet"]


def has_two_encoders(folder: Path) -> bool:
    """Whether the UNet of a folder is XL's."""
    config = folder / "unet/config.json"
    return config.is_file() and read_json(config).get("addition_embed_type") == "text_time"


def check_index(name: str, index: dict[str, Any]) -> None:
    """Refuse a model_index.json that names classes of no known library: they would be its own code."""
    for part, kind in index.items():
        library = kind[0] if isinstance(kind, list) and kind else None
        if (isinstance(library, str) and library not in LIBRARIES) or (part == "_class_name" and library):
            raise ModelError(
                f"{name} wants code of its own to be run (model_index.json, {part}).",
                "That is never done; use a checkpoint without it.",
            )


def check_tokenizer(name: str, folder: Path) -> None:
    """Refuse a tokenizer without a vocabulary, or whose config names code or a file elsewhere."""
    if not any((folder / file).is_file() for file in VOCABULARIES):
        raise ModelError(f"{name} has no {folder.name}/vocab.json.", "Fetch it again.")
    file = folder / "tokenizer_config.json"
    config = read_if_there(file)
    if "auto_map" in config:
        raise ModelError(
            f"{name} wants code of its own to be run ({folder.name}/tokenizer_config.json, auto_map).",
            "That is never done; use a checkpoint without it.",
        )
    extra = config.get("extra_ids", 0)  # words that T5's makes of a number
    if not isinstance(extra, int) or not 0 <= extra <= MOST_EXTRA:
        raise ModelError(
            f"{name}/{folder.name}/tokenizer_config.json is invalid: extra_ids is out of bounds.",
            "Fetch it again.",
        )
    for key, value in config.items():
        if key.endswith("_file") and isinstance(value, str):
            plain_name(name, f"{folder.name}/tokenizer_config.json", value)


def find_weights(name: str, places: Mapping[str, Path], variant: str | None) -> dict[str, list[Path]]:
    """The weight files of each network: those of the variant, or else the plain ones, or the only ones.

    places: the folder of each network.
    """
    found = {part: variants_in(folder, part) for part, folder in places.items()}
    if not any(variant in variants for variants in found.values()):
        others = {other for variants in found.values() for other in variants}
        part = next(iter(places))
        wanted = f"{name} has no {part}/{weight_file(STEMS[part], variant)}."
        flags = sorted(f"--variant {other}" if other else "no --variant" for other in others)
        have = " or ".join(flags)
        raise ModelError(wanted, f"Use {have}." if others else ONLY_SAFE)
    files: dict[str, list[Path]] = {}
    for part, variants in found.items():
        usable = [one for one in (variant, None) if one in variants] or variants
        if len(usable) != 1 and usable != [variant, None]:
            wanted = f"{name} has no {part}/{weight_file(STEMS[part], variant)}."
            pickles = [*places[part].glob("*.bin"), *places[part].glob("*.ckpt")]
            several = f"Use --variant with one of {', '.join(map(str, usable))}."
            raise ModelError(wanted, several if usable else ONLY_SAFE if pickles else "Fetch it again.")
        files[part] = weight_files(name, places[part], part, usable[0])
    return files


def weight_file(stem: str, variant: str | None, number: str = "") -> str:
    """The name of a weight file, or, with a number such as 00001-of-00002, of one of several."""
    name = f"{stem}.{variant}" if variant else stem
    return f"{name}-{number}.safetensors" if number else f"{name}.safetensors"


def index_file(stem: str, variant: str | None) -> str:
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def variants_in(folder: Path, part: str) -> list[str | None]:
    """The variants of the weights in the folder of a network; None stands for the plain ones."""
    stem = re.escape(STEMS[part])
    names = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    single = rf"{stem}(?:\.(\w+))?\.safetensors"
    several = rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json"
    matches = [re.fullmatch(pattern, name) for name in names for pattern in (single, several)]
    return sorted({match[1] for match in matches if match}, key=lambda one: one or "")


def weight_files(name: str, folder: Path, part: str, variant: str | None) -> list[Path]:
    """The files with a network's weights, one or several. ModelError names one that is missing."""
    stem = STEMS[part]
    single = folder / weight_file(stem, variant)
    if single.is_file():
        return [single]
    index = index_file(stem, variant)
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{name}/{folder.name}/{index} is invalid: it has no weight_map.", "Fetch it again.")
    listed = cast(dict[str, Any], weight_map).values()
    files = [plain_name(name, f"{folder.name}/{index}", file) for file in listed]
    for file in sorted({*files}):
        if not (folder / file).is_file():
            raise ModelError(f"{name} lacks {folder.name}/{file}.", "Fetch it again.")
    return [folder / file for file in sorted({*files})]


def plain_name(name: str, where: str, file: Any) -> str:
    """A file's name that stays in its folder. ModelError for a path that could leave it."""
    if not isinstance(file, str) or not re.fullmatch(r"[^/\\:\0]+", file) or file in (".", ".."):
        raise ModelError(
            f"{name} names a file outside its folder ({where}).", "That is never read; fetch it again."
        )
    return file
