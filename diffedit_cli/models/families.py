"""The families of transformers that predict the velocity of a flow: their parts, and what suits them.

SD3 and SD3.5 (Esser et al. 2024, arXiv 2403.03206), FLUX.1 dev and schnell (Black Forest Labs 2024), Z-Image
(arXiv 2511.22699), Chroma (Lodestone Rock 2025), FLUX.2 klein (Black Forest Labs 2026), Qwen-Image (arXiv
2508.02324). Steps and scales are those of their model pages; the scale of Z-Image is one higher, since its
pipeline defines it as a factor of what is added to the conditional prediction.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..errors import ModelError
from ..settings import public_name
from .networks import read_if_there, read_json
from .presets import PRESETS
from .transformer_file import kind_of_transformer, told_by
from .weights import shapes_in

HELP = (
    "Use Stable Diffusion 3 or 3.5, FLUX.1 dev or schnell, FLUX.2 klein, Chroma, Qwen-Image, Z-Image, or one "
    "of 1.x, 2.x or XL."
)


@dataclass(frozen=True)
class Family:
    """A kind of transformer.

    key: the kind of its network (see networks.read_config). encoders: the kind of each text encoder.
    optional: one that a folder may lack. has_even_times: its pipeline gives the scheduler evenly spaced
    times; otherwise the scheduler takes its own. others: {pattern: task} of models for another task, whose
    transformers look like this kind; a pattern fits a part of their name or of their pipeline's. packed: the
    latent cells in one of its tokens, as it takes them. vae: the kind of its VAE. has_fitted_shift: the shift
    of its times is FLUX.2's, which depends on the steps too.
    """

    key: str
    encoders: Mapping[str, str]
    optional: str = ""
    has_even_times: bool = False
    others: Mapping[str, str] = field(default_factory=dict)
    packed: int = 1
    vae: str = "flow_vae"
    has_fitted_shift: bool = False

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each network."""
        return {"transformer": self.key, "vae": self.vae, **self.encoders}


FAMILIES = {  # by the class of the transformer
    "SD3Transformer2DModel": Family(
        "sd3",
        {"text_encoder": "text_encoder_2", "text_encoder_2": "text_encoder_2", "text_encoder_3": "t5"},
        optional="text_encoder_3",
    ),
    "FluxTransformer2DModel": Family(
        "flux",
        {"text_encoder": "text_encoder", "text_encoder_2": "t5"},
        has_even_times=True,
        others={"kontext": "for editing by instruction"},
        packed=4,
    ),
    "ChromaTransformer2DModel": Family(
        "chroma",
        {"text_encoder": "t5"},
        has_even_times=True,
        others={"radiance": "for pixels instead of latents"},
        packed=4,
    ),
    "Flux2Transformer2DModel": Family(
        "flux2",
        {"text_encoder": "qwen3"},
        has_even_times=True,
        others={
            r"klein\S*kv": "for editing by instruction",
            r"flux[-_.]?2[-_]dev|flux2pipeline": "for a text encoder that is not supported (FLUX.2 dev)",
        },
        packed=4,
        vae="flux2_vae",
        has_fitted_shift=True,
    ),
    "QwenImageTransformer2DModel": Family(
        "qwenimage",
        {"text_encoder": "qwen2_5_vl"},
        has_even_times=True,
        others={"image[-_]?edit": "for editing by instruction", "image[-_]?layered": "for drawing in layers"},
        packed=4,
        vae="qwen_vae",
    ),
    "ZImageTransformer2DModel": Family("zimage", {"text_encoder": "qwen3"}, has_even_times=True),
}
BY_KIND = {family.key: family for family in FAMILIES.values()}


def family_of(name: str, folder: Path) -> Family | None:
    """The family of a folder's transformer; None: it has none. ModelError: it is not supported, or is for
    another task."""
    config, index = folder / "transformer/config.json", read_if_there(folder / "model_index.json")
    if config.is_file():
        kind = read_json(config).get("_class_name")
    else:
        listed = index.get("transformer")
        kind = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
    if kind is None and not (folder / "transformer").is_dir():
        return None
    family = FAMILIES.get(str(kind))
    if family is None:
        raise ModelError(f"{name} has a transformer that is not supported ({kind}).", HELP)
    refuse_other_tasks(name, family, str(index.get("_class_name", "")))
    return family


def refuse_other_tasks(name: str, family: Family, pipeline: str = "") -> None:
    """ModelError for a model of the family that is for another task, by its name or its pipeline's."""
    for pattern, task in family.others.items():
        if re.search(pattern, f"{public_name(name)} {pipeline}", re.IGNORECASE):
            raise ModelError(f"{name} is made {task}.", HELP)


@dataclass(frozen=True)
class Suited:
    """A variant of a family: its name for people, and the settings that suit it, by key (settings.filled_in).

    longest: the tokens of a text that T5 or a language model gets.
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
    "chroma": Suited("Chroma", {"steps": 40, "guidance_scale": 3.0}, longest=512),
    "chroma-flash": Suited("Chroma1-Flash", {**DISTILLED, "steps": 8}, longest=512),
    "flux2-klein": Suited("FLUX.2 klein", DISTILLED, longest=512),
    "flux2-klein-base": Suited("FLUX.2 klein base", {"steps": 50, "guidance_scale": 4.0}, longest=512),
    "qwen-image": Suited(
        "Qwen-Image", {"steps": 50, "guidance_scale": 4.0, "guidance_norm": "token"}, longest=512 + 34
    ),
    "zimage": Suited("Z-Image", {"steps": 50, "guidance_scale": 5.0}, longest=512),
    "zimage-turbo": Suited("Z-Image-Turbo", {**DISTILLED, "steps": 8}, longest=512),
}


def suited(
    name: str, family: Family, config: Mapping[str, Any], index: Mapping[str, Any] | None = None
) -> Suited:
    """What suits a checkpoint, by its name, the config of its transformer and its model_index.json."""
    if family.key == "flux2":
        is_distilled = (index or {}).get("is_distilled")
        return SUITED["flux2-klein" if is_distilled else "flux2-klein-base"]
    if family.key == "qwenimage":
        return SUITED["qwen-image"]
    if family.key == "flux":
        return SUITED["flux-dev" if config.get("guidance_embeds") else "flux-schnell"]
    own_name = short_name(name)
    if family.key == "chroma":
        return SUITED["chroma-flash" if "flash" in own_name else "chroma"]
    is_turbo = "turbo" in own_name
    if family.key == "zimage":
        return SUITED["zimage-turbo" if is_turbo else "zimage"]
    if is_turbo:
        return SUITED["sd3.5-turbo"]
    if config.get("qk_norm") is None:
        return SUITED["sd3"]
    return SUITED["sd3.5-medium" if config.get("dual_attention_layers") else "sd3.5-large"]


def short_name(name: str) -> str:
    return PurePath(public_name(name)).name.lower()


def index_beside(name: str, rest: Path | None) -> dict[str, Any]:
    """What the model_index.json of a transformer in a file would say. Its name goes before the checkpoint
    that has the other parts. rest: the folder of that checkpoint, if it is here."""
    if "klein" in (own_name := short_name(name)):
        return {"is_distilled": "base" not in own_name}
    return {} if rest is None else read_if_there(rest / "model_index.json")


def suited_to(name: str, path: Path | None, rest: Path | None = None) -> Suited | None:
    """What suits a checkpoint, if it is one of these families. path: where it is, if it is here. rest: see
    `index_beside`."""
    if path is None:
        return SUITED.get(PRESETS[name].suited) if name in PRESETS else None
    if path.is_file():
        names = shapes_in(path)
        kind = kind_of_transformer(names)
        return suited(name, BY_KIND[kind], told_by(names), index_beside(name, rest)) if kind else None
    file = path / "transformer/config.json"
    if not file.is_file() or (family := family_of(name, path)) is None:
        return None
    return suited(name, family, read_json(file), read_if_there(path / "model_index.json"))
