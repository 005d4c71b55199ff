"""Every setting with its default, its range and its help: the one schema.

The command line's flags, config files, the Python API and the settings stored in a result are all made from
these dataclasses, so none of them can drop a field.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import SettingError
from .fields import setting, validate

GuidanceMethod = Literal["cfg", "apg", "cfg++", "adaptive"]
GuidanceNorm = Literal["none", "pred", "diff", "both", "cond"]
GuidanceSchedule = Literal["constant", "linear-down", "cosine-down", "linear-up"]
Inversion = Literal["ddim", "negative-prompt", "noise"]
Solver = Literal["ddim", "dpm++"]
Easing = Literal["linear", "smooth", "in", "out"]
Spacing = Literal["uniform", "even"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]

MAX_SEED = 2**32 - 1
USUAL_SCALE = 7.5
USUAL_STRENGTH = 0.8


@dataclass(frozen=True)
class GuidanceConfig:
    """How the conditional and the unconditional prediction become one (guidance.py, docs/math.md)."""

    scale: float | None = setting(
        None,
        "How hard the prompt pulls; 1 turns guidance off. Default: the model's own, or 7.5; 0.15 for the "
        "norms diff and both; 0.6 for cfg++.",
        low=0,
        high=100,
        panel="Guidance",
        flags=("--cfg-scale",),
    )
    schedule: GuidanceSchedule = setting(
        "constant", "How the scale changes over the steps.", panel="Guidance"
    )
    end: float = setting(
        1.0,
        "The scale at the weak end of a schedule: the last step of a -down, the first of an -up.",
        low=0,
        high=100,
        panel="Guidance",
    )
    interval: str = setting(
        "0:1",
        "Guide only between these fractions of the steps, e.g. 0.2:0.8; outside it the scale is 1.",
        panel="Guidance",
    )
    norm: GuidanceNorm = setting(
        "none",
        "Rescale the whole prediction (pred, cond), the update (diff), or both.",
        panel="Guidance",
    )
    rescale: float = setting(
        0.0,
        "Share of the guided prediction that is given the standard deviation of the unguided one.",
        low=0,
        high=1,
        panel="Guidance",
    )
    method: GuidanceMethod = setting(
        "cfg", "Classifier-free guidance or one of its successors.", panel="Guidance"
    )

    def __post_init__(self) -> None:
        validate(self, "guidance_")
        self.bounds()
        if self.method != "cfg" and self.norm != "none":
            raise SettingError(
                f"--guidance-norm {self.norm} cannot be used with --guidance-method {self.method}.",
                "A norm rescales plain classifier-free guidance; choose one of the two.",
            )
        if self.method in ("apg", "cfg++") and self.rescale:
            raise SettingError(
                f"--guidance-rescale cannot be used with --guidance-method {self.method}.",
                "It mends an overshoot that this method does not have; leave it out.",
            )
        if self.norm in ("diff", "both") and self.base_scale > 1:
            raise SettingError(
                f"--guidance-scale {self.base_scale:g} is too large for --guidance-norm {self.norm}.",
                "There the scale is a fraction of the prediction's length: use 0.05 to 1 (0.15 is usual).",
            )
        if self.norm in ("diff", "both") and self.schedule != "constant" and self.end > self.base_scale:
            raise SettingError(
                f"--guidance-end {self.end:g} is above --guidance-scale {self.base_scale:g}.",
                f"With --guidance-norm {self.norm} give both as fractions, e.g. --guidance-end 0.",
            )
        if self.method == "cfg++" and self.base_scale > 1:
            raise SettingError(
                f"--guidance-scale {self.base_scale:g} is too large for --guidance-method cfg++.",
                "There the scale is between 0 and 1 (0.6 is usual).",
            )
        if self.method == "cfg++" and self.schedule != "constant":
            raise SettingError(
                "--guidance-schedule cannot be used with --guidance-method cfg++.",
                "That method has a schedule of its own; leave it out.",
            )

    @property
    def base_scale(self) -> float:
        """The scale to begin with: the one given, else the usual one of this norm or method."""
        return self.usual_scale() if self.scale is None else self.scale

    def usual_scale(self, plain: float = USUAL_SCALE) -> float:
        """The scale where none is given; `plain`: that of a multiple of the update, which others are not."""
        if self.method == "cfg++":
            return 0.6
        return 0.15 if self.norm in ("diff", "both") else plain

    def bounds(self) -> tuple[float, float]:
        """The interval as two fractions of the steps, 0 <= a < b <= 1."""
        try:
            first, last = (float(part) for part in self.interval.split(":"))
        except ValueError:
            first, last = math.nan, math.nan
        if not 0 <= first < last <= 1:
            raise SettingError(
                f"--guidance-interval {self.interval} is not an interval.",
                "Give two fractions of the steps with a colon between them, such as 0.2:0.8.",
            )
        return first, last


@dataclass(frozen=True)
class MaskConfig:
    """How the mask is found from the difference of two predictions, and shaped (see mask.py)."""

    threshold: float = setting(
        0.5,
        "Heat from which on a place belongs to the mask; heat runs from 0 to 1.",
        low=0,
        high=1,
        panel="Mask",
    )
    strength: tuple[float, ...] = setting(
        (0.3, 0.5),
        "Noise level, as a share of all timesteps, at which the two texts are compared; repeat it to add "
        "the maps of several levels.",
        low=0.02,
        high=1,
        panel="Mask",
    )
    samples: int = setting(
        6,
        "Noises that the map is averaged over; three forwards each, two with --no-mask-evidence or without "
        "--ref or --query.",
        low=1,
        high=1000,
        panel="Mask",
    )
    evidence: bool = setting(
        True,
        "Weigh the map by how far --ref tells the noise better than --query and the empty text do: what "
        "neither names stays out.",
        panel="Mask",
    )
    clip: float = setting(
        0.95,
        "Quantile of the map that counts as 1; what lies above is an outlier.",
        low=0.5,
        high=1,
        panel="Mask",
    )
    refine: float = setting(
        0.19,
        "Radius, as a share of the shorter side, in which the mask's outline is drawn on to the picture's "
        "own edges; 0 leaves it as the map has it.",
        low=0,
        high=1,
        panel="Mask",
    )
    grow: int = setting(
        0, "Grow the mask by so many latent cells; negative shrinks it.", low=-64, high=64, panel="Mask"
    )
    feather: float = setting(
        2.0,
        "Width of the soft inner edge of the paste, in pixels of the working size.",
        low=0,
        high=256,
        panel="Mask",
    )
    fill_holes: bool = setting(True, "Fill holes that the mask encloses.", panel="Mask")
    invert: bool = setting(
        False,
        "Edit everything but the mask.",
        panel="Mask",
        flags=("--invert-mask",),
    )

    def __post_init__(self) -> None:
        validate(self, "mask_")
        if not self.strength:
            raise SettingError("--mask-strength needs at least one value.", "0.5 is the paper's.")


def check_solver(solver: Solver, guidance: GuidanceConfig) -> None:
    """SettingError for a solver and a guidance that do not go together."""
    if solver != "ddim" and guidance.method == "cfg++":
        raise SettingError(
            f"--solver {solver} cannot be used with --guidance-method cfg++.",
            "That method is made for DDIM; leave one of the two out.",
        )


@dataclass(frozen=True)
class EditConfig:
    """Everything that `diffedit edit` needs to know beside the picture and the model."""

    ref: str = setting("", "What is in the picture now, e.g. horse. May be left out.", panel="Text")
    query: str = setting(
        "", "What shall be there instead, e.g. zebra.", panel="Text", flags=("-p", "--prompt")
    )
    negative_prompt: str = setting("", "What the result shall not look like.", panel="Text")
    steps: int = setting(25, "Steps from pure noise to a picture.", low=1, high=1000)
    solver: Solver = setting(
        "ddim", "How a step is taken: DDIM, or the second-order DPM-Solver++, for runs of few steps."
    )
    strength: float | None = setting(
        None,
        "Encoding ratio r: the share of the steps that the picture is taken back and redrawn over. "
        "Default: the model's own, or 0.8.",
        low=0.01,
        high=1,
    )
    seed: int | None = setting(
        None, "Seed of all noise; a random one is chosen, printed and stored.", low=0, high=MAX_SEED
    )
    inversion: Inversion = setting(
        "ddim",
        "How the picture becomes noise: DDIM inversion with the empty prompt (DiffEdit), with --ref as both "
        "its prompt and the negative (negative-prompt), or plain noise.",
    )
    size: int | None = setting(
        None,
        "Working size: side in pixels of a square with the area that is edited. Default: the model's own.",
        low=32,
        high=4096,
    )
    zoom: bool | None = setting(
        None,
        "Look for a small thing closer and closer, and work on the part round it alone. Default: where the "
        "mask covers so little that this shows it twice as large, or larger.",
    )
    keep_detail: bool = setting(
        True,
        "Bring the picture's own detail and tone back inside the mask, wherever nothing changed there.",
    )
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    room: float = setting(
        0.11,
        "Room round a found mask, which is redrawn too, for a thing of another shape: a share of the root of "
        "the mask's area. None round a mask of your own or an inverted one.",
        low=0,
        high=4,
        panel="Mask",
    )

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)
        if self.inversion == "negative-prompt" and self.negative_prompt:
            raise SettingError(
                "--negative-prompt cannot be used with --inversion negative-prompt.",
                "That inversion takes --ref as the negative prompt; leave one of the two out.",
            )

    @property
    def ratio(self) -> float:
        """The encoding ratio r: the strength given, else the usual one."""
        return USUAL_STRENGTH if self.strength is None else self.strength


def require_query(config: EditConfig) -> None:
    """SettingError if a search for the mask would have no query to search with, or the reference again."""
    if not config.query.strip():
        raise SettingError("There is no query.", "Say with --query what is to be there, e.g. --query zebra.")
    require_difference(config)


def require_difference(config: EditConfig) -> None:
    """SettingError if the two texts of a search are one."""
    if config.ref == config.query:
        raise same_texts(config)


def same_texts(config: EditConfig) -> SettingError:
    return SettingError(
        f"The reference and the query are the same ({config.ref or 'both empty'}), so nothing differs.",
        "Say with --ref what is there now and with --query what shall be there instead.",
    )


def require_way_back(config: EditConfig) -> None:
    """SettingError if an inversion does not lead back to the picture, where a film of the edit begins."""
    if config.inversion == "noise":
        raise SettingError(
            "A film cannot be made with --inversion noise.",
            "Plain noise does not lead back to the picture; use ddim or negative-prompt.",
        )


# --fast; docs/speed.md says what it costs
FAST: Mapping[str, Any] = {"steps": 12, "mask_samples": 3, "guidance_interval": "0:0.5"}


@dataclass(frozen=True)
class GenerateConfig:
    """Everything that `diffedit generate` needs to know beside the model."""

    prompt: str = setting("", "What the picture shows.", panel="Text")
    negative_prompt: str = setting("", "What the picture shall not look like.", panel="Text")
    steps: int = setting(25, "Steps from pure noise to a picture.", low=1, high=1000)
    solver: Solver = setting(
        "ddim", "How a step is taken: DDIM, or the second-order DPM-Solver++, for runs of few steps."
    )
    seed: int | None = setting(
        None, "Seed of all noise; a random one is chosen, printed and stored.", low=0, high=MAX_SEED
    )
    width: int | None = setting(None, "Width in pixels. Default: the model's own.", low=32, high=4096)
    height: int | None = setting(None, "Height in pixels. Default: the model's own.", low=32, high=4096)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)


@dataclass(frozen=True)
class InterpolateConfig:
    """Everything that `diffedit interpolate` needs to know beside the model."""

    prompts: tuple[str, ...] = setting((), "Two or more prompts, in order.", panel="Text")
    negative_prompt: str = setting("", "What the pictures shall not look like.", panel="Text")
    frames: int = setting(
        12, "Frames a leg, its two prompts included; a joint of two legs counts once.", low=2, high=10000
    )
    fps: int = setting(12, "Frames a second of the video.", low=1, high=120, panel="Files")
    ease: Easing = setting("linear", "How the movement starts and ends on each leg.")
    spacing: Spacing = setting(
        "uniform", "Equal steps of the weight, or frames that look equally different (even)."
    )
    loop: bool = setting(False, "End where it began: one more leg, back to the first prompt.")
    chain: float | None = setting(
        None,
        "Start each leg from the last picture of the one before, taken back over this share of the steps.",
        low=0.01,
        high=1,
    )
    strength: float = setting(
        0.6, "With --init: the share of the steps that the picture is redrawn over.", low=0.01, high=1
    )
    steps: int = setting(25, "Steps from pure noise to a picture.", low=1, high=1000)
    solver: Solver = setting(
        "ddim", "How a step is taken: DDIM, or the second-order DPM-Solver++, for runs of few steps."
    )
    seed: tuple[int, ...] = setting(
        (),
        "Seed of the noise: one for all, or one a prompt (repeat it). A random one is printed and stored.",
        low=0,
        high=MAX_SEED,
    )
    width: int | None = setting(None, "Width in pixels. Default: the model's own.", low=32, high=4096)
    height: int | None = setting(None, "Height in pixels. Default: the model's own.", low=32, high=4096)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)
        if len(self.prompts) < 2:
            raise SettingError(
                "An interpolation needs two prompts or more.", "Give them one after the other."
            )
        if len(self.seed) > 1 and len(self.seed) != len(self.prompts):
            raise SettingError(
                f"{len(self.seed)} seeds do not fit {len(self.prompts)} prompts.",
                "Give one --seed for all, or one for each prompt.",
            )
        if self.spacing == "even" and self.ease != "linear":
            raise SettingError(
                "--ease cannot be used with --spacing even.",
                "Even spacing chooses where the frames lie by itself; leave one of the two out.",
            )
        if self.loop and self.chain is not None:
            raise SettingError(
                "--loop cannot be used with --chain.",
                "A chain drifts away from its first picture, so it cannot end there; choose one.",
            )


@dataclass(frozen=True)
class FilmConfig:
    """The film of an edit (`diffedit edit --animate`)."""

    frames: int = setting(
        24,
        "With --animate: frames from the picture to its edit, both included.",
        low=2,
        high=10000,
        panel="Film",
    )
    fps: int = setting(12, "With --animate: frames a second.", low=1, high=120, panel="Film")
    loop: bool = setting(False, "With --animate: there and back again.", panel="Film")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class MergeConfig:
    """How `diffedit merge` decides what was changed (see core/align.py)."""

    threshold: float = setting(
        0.02,
        "Difference in colour from which on a place counts as changed, above that of the whole picture; "
        "1 is black to white.",
        low=0.001,
        high=1,
        panel="Mask",
    )
    grow: int = setting(
        1,
        "Grow the mask by this many cells (4 pixels); negative shrinks it.",
        low=-64,
        high=64,
        panel="Mask",
    )
    feather: float = setting(
        2.0, "Width of the soft inner edge of the paste, in pixels.", low=0, high=256, panel="Mask"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint, and what it runs on (see models.load_model)."""

    model: str = setting(
        "embedded",
        "embedded, sd15, sd21, sdxl, a folder, a .safetensors file, or a hub id.",
        panel="Model",
        flags=("-m",),
    )
    revision: str | None = setting(None, "Branch, tag or commit of a hub id.", panel="Model")
    variant: str | None = setting(None, "Variant of the weight files, e.g. fp16.", panel="Model")
    lora: tuple[str, ...] = setting(
        (), "LoRA file to lay over the model, as FILE[:SCALE]; repeat it for several.", panel="Model"
    )
    embedding: tuple[str, ...] = setting(
        (),
        "Textual inversion to teach the model a word, as FILE[:WORD]; repeat it for several.",
        panel="Model",
    )
    offline: bool = setting(False, "Never ask the hub.", panel="Model")
    device: str = setting(
        "auto", "cpu, cuda, cuda:1, mps or auto: the fastest kind of device there is.", panel="Model"
    )
    dtype: Dtype = setting(
        "auto",
        "Type of the weights. auto: float16 on cuda, bfloat16 for a large model on a CPU made for it, else "
        "float32.",
        panel="Model",
    )
    low_memory: bool = setting(
        False,
        "Work in small pieces: slower. Chosen automatically when memory is short.",
        panel="Model",
    )
    compile: bool = setting(
        False,
        "Compile the UNet's blocks first: for many edits in one call. Needs a C++ compiler.",
        panel="Model",
    )

    def __post_init__(self) -> None:
        for key in ("lora", "embedding"):  # one file may be given as a plain string
            value = getattr(self, key)
            if isinstance(value, str):
                object.__setattr__(self, key, (value,))
        validate(self)


Config = TypeVar("Config", EditConfig, GenerateConfig, InterpolateConfig)


def filled_in(config: Config, own: Mapping[str, float]) -> Config:
    """The settings with the model's own strength and guidance_scale, or the usual ones, where none are given.

    own: what the model's folder declares (models.own_defaults).
    """
    if config.guidance.scale is None:
        scale = config.guidance.usual_scale(own.get("guidance_scale", USUAL_SCALE))
        config = replace(config, guidance=replace(config.guidance, scale=scale))
    if isinstance(config, EditConfig) and config.strength is None:
        config = replace(config, strength=own.get("strength", USUAL_STRENGTH))
    return config


def public_name(model: str) -> str:
    """A model's name as it may be stored in a picture: of a path on this machine, only the last part."""
    path = os.path.expanduser(model)
    return Path(path).resolve().name if os.path.exists(path) else model


@dataclass(frozen=True)
class TalkConfig:
    """How much is said, and to whom."""

    quiet: bool = setting(False, "Say nothing but errors.", panel="Messages", flags=("-q",))
    verbose: bool = setting(
        False, "Say where the time went; show tracebacks.", panel="Messages", flags=("-v",)
    )
    json: bool = setting(False, "Print the result as JSON on stdout.", panel="Messages")


SCHEMAS = (EditConfig, GenerateConfig, InterpolateConfig, ModelConfig, TalkConfig)
