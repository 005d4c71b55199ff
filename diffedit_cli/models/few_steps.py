"""Models that were distilled to run in a few steps: how one is recognised, and what suits it.

SD-Turbo and SDXL-Turbo (Sauer et al. 2023, arXiv 2311.17042), SDXL-Lightning (Lin et al. 2024, arXiv
2402.13929), Hyper-SD (Ren et al. 2024, arXiv 2404.13686), LCM (Luo et al. 2023, arXiv 2310.04378), TCD (Zheng
et al. 2024, arXiv 2402.19159), DMD2 (Yin et al. 2024, arXiv 2405.14867). The values are those of their pages.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..errors import ModelError
from ..settings import Solver, TimestepSpacing, public_name
from .addons import split
from .families import Suited, suited_to
from .networks import read_json
from .presets import PRESETS
from .sources import first_folder

STEPS = 4  # where a name tells no other number
FOLDERS_NAME = "pytorch_lora_weights"  # what diffusers calls every LoRA


@dataclass(frozen=True)
class Family:
    """A way of distilling, and what its models are run with."""

    name: str
    solver: Solver = "ddim"
    timestep_spacing: TimestepSpacing = "trailing"


FAMILIES = {  # by the word in a name
    "turbo": Family("Turbo"),
    "lightning": Family("Lightning"),
    "hyper": Family("Hyper-SD"),
    "lcm": Family("LCM", "lcm", "lcm"),
    "tcd": Family("TCD", timestep_spacing="lcm"),
    "dmd": Family("DMD2", "lcm"),
}
OF_SCHEDULERS = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


@dataclass(frozen=True)
class FewSteps:
    """A few-step model: its family, and the settings that suit it, by key (see settings.filled_in)."""

    family: str
    defaults: Mapping[str, Any]


def of_checkpoint(
    name: str, path: Path | None, loras: Sequence[str], texts: Sequence[str] = ()
) -> FewSteps | None:
    """What `recognise` says of a checkpoint by its name and small files; path: where it is, if it is here.

    loras: as they are given, file[:scale]. texts: what --text-encoder names.
    """
    preset = PRESETS.get(name)
    known_as = f"{preset.repository}/{preset.file}" if preset else public_name(name)
    if kind := suited_to(name, path, first_folder(texts)):
        return of_flow(kind, loras)
    files = ("scheduler/scheduler_config.json", "unet/config.json")
    scheduler, unet = (
        read_json(path / file) if path is not None and (path / file).is_file() else {} for file in files
    )
    names = [split(given)[0] for given in loras]
    return recognise(known_as, names, scheduler, is_lcm=bool(unet.get("time_cond_proj_dim")))


def defaults_of(
    name: str, path: Path | None, loras: Sequence[str], texts: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings that suit a checkpoint by its family and as a few-step model. See `of_checkpoint`."""
    family = suited_to(name, path, first_folder(texts))
    few = of_checkpoint(name, path, loras, texts)
    return {**(family.defaults if family else {}), **(few.defaults if few else {})}


def of_flow(kind: Suited, loras: Sequence[str]) -> FewSteps | None:
    """A few-step flow-matching model, or one with a LoRA that makes it one.

    It keeps its own levels, and a scale that is an input of its network.
    """
    keys = ["steps", "inversion"] + ["guidance_scale"] * (kind.defaults.get("guidance_method") != "embedded")
    for lora in reversed(loras):
        if found := of_lora(split(lora)[0]):
            return FewSteps(found.family, {key: found.defaults[key] for key in keys if key in found.defaults})
    return FewSteps(kind.name, kind.defaults) if kind.is_few_steps else None


def recognise(
    name: str, loras: Sequence[str] = (), scheduler: Mapping[str, Any] | None = None, *, is_lcm: bool = False
) -> FewSteps | None:
    """Recognise a few-step model; None: it is not one.

    name: of the file, folder or repository. loras: names of LoRA files; the last few-step one takes
    precedence over the model's own name. scheduler: the config of a checkpoint's scheduler, which decides
    where no name does. is_lcm: its UNet takes the guidance scale as an input. ModelError: it predicts x0.
    """
    for lora in reversed(loras):
        if found := of_lora(lora):
            return found
    words = words_of(last_part(name))
    kind = next((word for word in FAMILIES if word in words), "")
    kind = "lcm" if is_lcm else kind or of_scheduler(scheduler or {})
    return few_steps(kind, last_part(name)) if kind else None


def of_lora(file: str) -> FewSteps | None:
    """What a LoRA makes of any checkpoint. One word is not enough: it may draw lightning."""
    path = PurePath(file)
    name = last_part(str(path.parent if path.stem == FOLDERS_NAME else path))
    words = words_of(name)
    kind = next((word for word in FAMILIES if word in words), "")
    is_distilled = kind in ("lcm", "tcd", "dmd") or count_in(name) or (kind == "turbo" and "lora" in words)
    return few_steps(kind, name) if kind and is_distilled else None


def few_steps(kind: str, name: str) -> FewSteps:
    """The settings for a family, and the number of steps that a name tells."""
    family, count, words = FAMILIES[kind], count_in(name), words_of(name)
    if kind == "lightning" and count == 1:
        raise ModelError(
            f"{name} predicts the picture itself, not the noise.",
            "Use the Lightning model for 2, 4 or 8 steps.",
        )
    if kind == "hyper" and count == 1:  # one for 1 to 8 steps, on the levels and with the fresh noise of TCD
        family, count = Family(family.name, "lcm", "lcm"), STEPS
    defaults: dict[str, Any] = {
        "steps": count or STEPS,
        "solver": family.solver,
        "timestep_spacing": family.timestep_spacing,
        "inversion": "noise",
    }
    if "cfg" not in words:  # Hyper-SD's CFG files keep guidance
        defaults["guidance_scale"] = 1.0
    return FewSteps(family.name, defaults)


def of_scheduler(config: Mapping[str, Any]) -> str:
    """The family that a scheduler's config indicates, or an empty text.

    Euler's with trailing timesteps is that of Turbo and Lightning, unless it starts from pure noise or
    predicts v: then it belongs to a many-step model (Lin et al. 2023, arXiv 2305.08891).
    """
    kind = config.get("_class_name")
    is_plain = config.get("prediction_type", "epsilon") == "epsilon" and not config.get(
        "rescale_betas_zero_snr"
    )
    if kind in EULER and config.get("timestep_spacing") == "trailing" and is_plain:
        return "turbo"
    return OF_SCHEDULERS.get(str(kind), "")


def last_part(name: str) -> str:
    """The name of a file without folders and suffix, of a folder, or of a repository without its owner."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].removesuffix(".safetensors").removesuffix(".gguf")


def words_of(name: str) -> set[str]:
    """The words in a name, small: sdXL_v21TurboDPM_4step has sd, xl, v, turbo, dpm, step, and no numbers."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {part.lower() for part in parts}


def count_in(name: str) -> int:
    """The number before `step` or `steps` in a name; 0: there is none."""
    found = re.search(r"(\d+)[-_ ]?steps?(?![a-z])", name, re.IGNORECASE)
    return int(found[1]) if found else 0
