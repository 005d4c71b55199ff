"""Groups of settings that several commands share: guidance, and the shape of the mask."""

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import SettingError
from .fields import setting, validate

GuidanceMethod = Literal["auto", "cfg", "apg", "cfg++", "adaptive", "embedded"]
GuidanceNorm = Literal["auto", "none", "pred", "diff", "both", "cond", "token"]
MaskGrey = Literal["strength", "blend"]
GuidanceSchedule = Literal["constant", "linear-down", "cosine-down", "linear-up"]

USUAL_SCALE = 7.5
PLAIN_NORMS = ("auto", "none")  # auto: none, unless the model has its own (filled_in)


@dataclass(frozen=True)
class GuidanceConfig:
    """How the conditional and the unconditional prediction are combined (core/guidance.py, docs/math.md)."""

    scale: float | None = setting(
        None,
        "How strongly the prompt is followed; 1 turns guidance off. Default: the model's own, or 7.5; 0.15 "
        "for the norms diff and both; 0.6 for cfg++.",
        low=0,
        high=100,
        panel="Guidance",
        flags=("--cfg-scale",),
    )
    schedule: GuidanceSchedule = setting(
        "constant", "How the scale changes over the steps.", panel="Guidance", expert=True
    )
    end: float = setting(
        1.0,
        "The scale at the weak end of a schedule: at the last step of a -down schedule, at the first of -up.",
        low=0,
        high=100,
        panel="Guidance",
        expert=True,
    )
    interval: str = setting(
        "0:1",
        "Guide only between these two fractions of the steps, for example 0.2:0.8; outside them the scale "
        "is 1.",
        panel="Guidance",
        expert=True,
    )
    norm: GuidanceNorm = setting(
        "auto",
        "What to rescale: the whole prediction, to the length of the unconditional one (pred) or the "
        "conditional one (cond; token does this for each block of 2x2 cells); the update (diff); or both. "
        "Default: token for Qwen-Image, none for others.",
        panel="Guidance",
        expert=True,
    )
    rescale: float = setting(
        0.0,
        "How far to rescale the guided prediction to the standard deviation of the conditional one: 0 not "
        "at all, 1 fully.",
        low=0,
        high=1,
        panel="Guidance",
        expert=True,
    )
    method: GuidanceMethod = setting(
        "auto",
        "Classifier-free guidance (cfg) or one of its successors; or the scale as an input of the network "
        "(embedded), which models like FLUX.1 dev always use. auto: embedded for these models, cfg for all "
        "others.",
        panel="Guidance",
        expert=True,
    )

    def __post_init__(self) -> None:
        validate(self, "guidance_")
        self.bounds()
        if self.method not in ("auto", "cfg") and self.norm not in PLAIN_NORMS:
            raise SettingError(
                f"--guidance-norm {self.norm} cannot be used with --guidance-method {self.method}.",
                "A norm rescales plain classifier-free guidance; choose one of the two.",
            )
        if self.method in ("apg", "cfg++", "embedded") and self.rescale:
            raise SettingError(
                f"--guidance-rescale cannot be used with --guidance-method {self.method}.",
                "It corrects an overshoot that this method does not have; leave it out.",
            )
        if self.norm in ("diff", "both"):
            self._check_fractions()
        if self.method == "cfg++":
            self._check_plus_plus()

    def _check_fractions(self) -> None:
        if self.base_scale > 1:
            raise SettingError(
                f"--guidance-scale {self.base_scale:g} is too large for --guidance-norm {self.norm}.",
                "With this norm the scale is a fraction of the prediction's length: use 0.05 to 1 "
                "(0.15 is usual).",
            )
        if self.schedule != "constant" and self.end > self.base_scale:
            raise SettingError(
                f"--guidance-end {self.end:g} is above --guidance-scale {self.base_scale:g}.",
                f"With --guidance-norm {self.norm} give both as fractions, for example --guidance-end 0.",
            )

    def _check_plus_plus(self) -> None:
        if self.base_scale > 1:
            raise SettingError(
                f"--guidance-scale {self.base_scale:g} is too large for --guidance-method cfg++.",
                "With this method the scale is between 0 and 1 (0.6 is usual).",
            )
        if self.schedule != "constant":
            raise SettingError(
                "--guidance-schedule cannot be used with --guidance-method cfg++.",
                "That method has a schedule of its own; leave the flag out.",
            )

    @property
    def base_scale(self) -> float:
        """The scale that was given, or the usual one for this norm or method."""
        return self.usual_scale() if self.scale is None else self.scale

    def usual_scale(self, plain: float = USUAL_SCALE) -> float:
        """The scale if none is given. `plain`: the one to use where the scale multiplies the update."""
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
    """How the mask is found from the difference of two predictions, and shaped (core/mask.py)."""

    threshold: float = setting(
        0.5,
        "Pixels of this heat or more belong to the mask. Heat, 0 to 1, measures how differently the model "
        "predicts a pixel for --ref and for --query.",
        low=0,
        high=1,
        panel="Mask",
    )
    strength: tuple[float, ...] = setting(
        (0.3, 0.5),
        "Noise level, as a share of all timesteps, at which the two texts are compared; repeat the flag to "
        "combine several levels.",
        low=0.02,
        high=1,
        panel="Mask",
        expert=True,
    )
    samples: int = setting(
        6,
        "Number of noise samples that the heat is averaged over. Each costs three forward passes of the "
        "network, or two with --no-mask-evidence or without --ref or --query.",
        low=1,
        high=1000,
        panel="Mask",
        expert=True,
    )
    evidence: bool = setting(
        True,
        "Weight the heat by how much better --ref predicts the noise than --query and the empty prompt do, "
        "so that what neither text names stays out of the mask.",
        panel="Mask",
        expert=True,
    )
    clip: float = setting(
        0.95,
        "Quantile of the raw difference that becomes heat 1; larger values are treated as outliers.",
        low=0.5,
        high=1,
        panel="Mask",
        expert=True,
    )
    refine: float = setting(
        0.19,
        "Radius, as a share of the shorter side, within which the mask's outline is moved to edges in the "
        "picture; 0 leaves it where it was found.",
        low=0,
        high=1,
        panel="Mask",
        expert=True,
    )
    grow: int = setting(
        0,
        "Grow the mask by this many latent cells: the blocks of pixels that the model works in, 8x8 for "
        "Stable Diffusion. A negative number shrinks it.",
        low=-64,
        high=64,
        panel="Mask",
    )
    feather: float = setting(
        2.0,
        "Width of the soft edge just inside the mask, in pixels of the working size (see --size).",
        low=0,
        high=256,
        panel="Mask",
    )
    fill_holes: bool = setting(True, "Fill the holes in the mask.", panel="Mask")
    invert: bool = setting(
        False,
        "Edit everything except the mask.",
        panel="Mask",
        flags=("--invert-mask",),
    )
    grey: MaskGrey = setting(
        "strength",
        "What grey means in a mask of your own: how strongly each place is redrawn, as a share of --strength "
        "(strength), or how much of the edit is mixed into the picture (blend).",
        panel="Mask",
        expert=True,
    )

    def __post_init__(self) -> None:
        validate(self, "mask_")
        if not self.strength:
            raise SettingError("--mask-strength needs at least one value.", "The paper uses 0.5.")
