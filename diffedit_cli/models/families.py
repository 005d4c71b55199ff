"""The families of transformers that predict the velocity of a flow: their parts, and what suits them.

SD3 and SD3.5 (Esser et al. 2024, arXiv 2403.03206), FLUX.1 dev and schnell (Black Forest Labs 2024), Z-Image
(arXiv 2511.22699). Steps and scales are those of their pages; that of Z-Image is one higher, since its
pipeline multiplies what is added to the conditional prediction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..errors import ModelError
from ..settings import public_name
from .networks import read_json
from .presets import PRESETS
from .transformer_file import kind_of_transformer, told_by
from .weights import shapes_in

HELP = "Use Stable Diffusion 3 or 3.5, FLUX.1 dev or schnell, Z-Image, or one of 1.x, 2.x or XL."


@dataclass(frozen=True)
class Family:
    """A kind of transformer.

    key: the kind of its network (see networks.read_config). encoders: the kind of each text encoder.
    optional: one that a folder may lack. has_even_times: its pipeline gives the scheduler evenly spaced
    times; otherwise the scheduler takes its own.
    """

    key: str
    encoders: Mapping[str, str]
    optional: str = ""
    has_even_times: bool = False

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each network."""
        return {"transformer": self.key, "vae": "flow_vae", **self.encoders}


FAMILIES = {  # by the class of the transformer
    "SD3Transformer2DModel": Family(
        "sd3",
        {"text_encoder": "text_encoder_2", "text_encoder_2": "text_encoder_2", "text_encoder_3": "t5"},
        optional="text_encoder_3",
    ),
    "FluxTransformer2DModel": Family(
        "flux", {"text_encoder": "text_encoder", "text_encoder_2": "t5"}, has_even_times=True
    ),
    "ZImageTransformer2DModel": Family("zimage", {"text_encoder": "qwen3"}, has_even_times=True),
}
BY_KIND = {family.key: family for family in FAMILIES.values()}


def family_of(name: str, folder: Path) -> Family | None:
    """The family of a folder's transformer; None: it has none. ModelError: it is of another kind."""
    config, index = folder / "transformer/config.json", folder / "model_index.json"
    if config.is_file():
        kind = read_json(config).get("_class_name")
    else:
        listed = read_json(index).get("transformer") if index.is_file() else None
        kind = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
    if kind is None and not (folder / "transformer").is_dir():
        return None
    family = FAMILIES.get(str(kind))
    if family is None:
        raise ModelError(f"{name} has a transformer that is not supported ({kind}).", HELP)
    return family


@dataclass(frozen=True)
class Suited:
    """A variant of a family: its name for people, and the settings that suit it, by key (settings.filled_in).

    longest: the tokens of a text that T5 or Qwen3 gets.
    """

    name: str
    defaults: Mapping[str, Any]
    longest: int = 256

    @property
    def is_few_steps(self) -> bool:
        return self.defaults["steps"] <= FEW


FEW = 8
DISTILLED = {"steps": 4, "guidance_scale": 1.0, "inversion": "noise"}
SUITED = {
    "sd3": Suited("Stable Diffusion 3", {"steps": 28, "guidance_scale": 7.0}),
    "sd3.5-medium": Suited("Stable Diffusion 3.5 medium", {"steps": 40, "guidance_scale": 4.5}),
    "sd3.5-large": Suited("Stable Diffusion 3.5 large", {"steps": 28, "guidance_scale": 3.5}),
    "sd3.5-turbo": Suited("Stable Diffusion 3.5 Turbo", DISTILLED),
    "flux-dev": Suited(
        "FLUX.1 dev", {"steps": 28, "guidance_scale": 3.5, "guidance_method": "embedded"}, longest=512
    ),
    "flux-schnell": Suited("FLUX.1 schnell", DISTILLED),
    "zimage": Suited("Z-Image", {"steps": 50, "guidance_scale": 5.0}, longest=512),
    "zimage-turbo": Suited("Z-Image-Turbo", {**DISTILLED, "steps": 8}, longest=512),
}


def suited(name: str, family: Family, config: Mapping[str, Any]) -> Suited:
    """What suits a checkpoint, by its name and the config of its transformer."""
    if family.key == "flux":
        return SUITED["flux-dev" if config.get("guidance_embeds") else "flux-schnell"]
    is_turbo = "turbo" in PurePath(public_name(name)).name.lower()
    if family.key == "zimage":
        return SUITED["zimage-turbo" if is_turbo else "zimage"]
    if is_turbo:
        return SUITED["sd3.5-turbo"]
    if config.get("qk_norm") is None:
        return SUITED["sd3"]
    return SUITED["sd3.5-medium" if config.get("dual_attention_layers") else "sd3.5-large"]


def suited_to(name: str, path: Path | None) -> Suited | None:
    """What suits a checkpoint, if it is one of these families. path: where it is, if it is here."""
    if path is None:
        return SUITED.get(PRESETS[name].suited) if name in PRESETS else None
    if path.is_file():
        names = shapes_in(path)
        kind = kind_of_transformer(names)
        return suited(name, BY_KIND[kind], told_by(names)) if kind else None
    file = path / "transformer/config.json"
    if not file.is_file() or (family := family_of(name, path)) is None:
        return None
    return suited(name, family, read_json(file))
