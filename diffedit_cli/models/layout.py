"""What a folder holds, found out from its small files, and refused with a reason before a weight is read."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import ModelError
from .weights import ONLY_SAFE, check_weights

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
XL_PARTS = (*PARTS, "text_encoder_2", "tokenizer_2")
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # those that model_index.json may name
HELP_FOLDER = "Give a folder in diffusers' layout of Stable Diffusion 1.x, 2.x or XL."
HELP_PLAIN = "Use the plain text-to-image checkpoint."


@dataclass(frozen=True)
class Layout:
    """A folder that passed `check_layout`. is_xl: it has two text encoders."""

    name: str
    folder: Path
    is_xl: bool
    has_zero_empty_prompt: bool

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return ("text_encoder", "text_encoder_2") if self.is_xl else ("text_encoder",)

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return ("tokenizer", "tokenizer_2") if self.is_xl else ("tokenizer",)

    @property
    def networks(self) -> tuple[str, ...]:
        return ("unet", "vae", *self.text_encoders)


def check_layout(name: str, folder: Path, variant: str | None = None) -> Layout:
    """Refuse a folder that is no Stable Diffusion 1.x, 2.x or XL of safetensors, or wants code to be run."""
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    check_index(name, index)
    if (folder / "transformer").is_dir():
        raise ModelError(f"{name} is a transformer, such as Stable Diffusion 3 or Flux.", HELP_FOLDER)
    unet = read_json(folder / "unet/config.json") if (folder / "unet/config.json").is_file() else {}
    is_xl = unet.get("addition_embed_type") == "text_time"
    if is_xl and (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise ModelError(f"{name} is the SDXL refiner, which only polishes pictures.", "Use SDXL base.")
    missing = [part for part in (XL_PARTS if is_xl else PARTS) if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"{name} lacks {', '.join(missing)}.", HELP_FOLDER)
    check_unet(name, unet)
    layout = Layout(name, folder, is_xl, bool(index.get("force_zeros_for_empty_prompt", is_xl)))
    for part in layout.networks:
        check_part(name, folder / part, variant)
    for part in layout.tokenizers:
        words = folder / part
        if not (words / "tokenizer.json").is_file() and not (words / "vocab.json").is_file():
            raise ModelError(f"{name} has no {part}/vocab.json.", "Fetch it again.")
    return layout


def check_index(name: str, index: dict[str, Any]) -> None:
    """Refuse a model_index.json that names classes of no known library: they would be code of its own."""
    for part, kind in index.items():
        library = kind[0] if isinstance(kind, list) and kind else None
        if (isinstance(library, str) and library not in LIBRARIES) or (part == "_class_name" and library):
            raise ModelError(
                f"{name} asks for code of its own to be run (model_index.json, {part}).",
                "That is never done; use a checkpoint without it.",
            )


def check_unet(name: str, config: dict[str, Any]) -> None:
    """Refuse a UNet that wants more than latents, a timestep and a text."""
    channels = config.get("in_channels", 4)
    if channels != 4:
        task = {9: "inpainting", 8: "instructions (InstructPix2Pix)", 7: "upscaling"}.get(channels)
        raise ModelError(
            f"{name} takes {channels} channels: it is made for {task or 'another task'}.", HELP_PLAIN
        )
    if config.get("time_cond_proj_dim"):
        raise ModelError(
            f"{name} is a latent consistency model, which is told its guidance scale.", HELP_PLAIN
        )
    extras = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
    extra = next((key for key in extras if config.get(key) is not None), None)
    if extra or config.get("addition_embed_type") not in (None, "text_time"):
        raise ModelError(f"{name} takes more than a text ({extra or 'addition_embed_type'}).", HELP_PLAIN)


def check_part(name: str, folder: Path, variant: str | None) -> None:
    """Refuse a network without safetensors of this variant, or whose config names code to be run."""
    stem = STEMS[folder.name]
    config = folder / "config.json"
    if config.is_file() and "auto_map" in read_json(config):
        raise ModelError(
            f"{name} asks for code of its own to be run ({folder.name}/config.json, auto_map).",
            "That is never done; use a checkpoint without it.",
        )
    files = weight_files(folder, variant)
    for file in files:
        check_weights(file)
    if files:
        return
    others = {match[1] for file in folder.glob("*.safetensors") if (match := variant_of(stem, file.name))}
    wanted = f"{name} has no {folder.name}/{weight_file(stem, variant)}."
    if others:
        have = " or ".join(f"--variant {other}" if other else "no --variant" for other in sorted(others))
        raise ModelError(wanted, f"Use {have}.")
    raise ModelError(wanted, ONLY_SAFE)


def weight_file(stem: str, variant: str | None, number: str = "") -> str:
    """The name of a weight file, or, with a number such as 00001-of-00002, of one of several."""
    name = f"{stem}.{variant}" if variant else stem
    return f"{name}-{number}.safetensors" if number else f"{name}.safetensors"


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The files with a network's weights, one or several; none if one of them is missing."""
    stem = STEMS[folder.name]
    single = folder / weight_file(stem, variant)
    index = folder / (f"{stem}.safetensors.index" + (f".{variant}.json" if variant else ".json"))
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    files = [folder / str(file) for file in {*read_json(index).get("weight_map", {}).values()}]
    return files if all(file.is_file() for file in files) else []


def variant_of(stem: str, file: str) -> re.Match[str] | None:
    """Group 1: the variant of a weight file's name, empty for the plain one."""
    return re.fullmatch(rf"{stem}\.?(\w*)(?:-\d+-of-\d+)?\.safetensors", file)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. ModelError if it is spoilt."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is spoilt: {error}.", "Fetch it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is spoilt: it holds no settings.", "Fetch it again.")
    return cast(dict[str, Any], content)
