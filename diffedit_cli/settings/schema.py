"""Every setting with its default, range and help: the one schema (with groups.py, sampling.py and model.py).

The command line's flags, config files, the Python API and the settings stored in a result are all made from
these dataclasses, so none of them can miss a field.
"""

from dataclasses import dataclass, field
from typing import Literal

from ..errors import SettingError
from .fields import setting, validate
from .groups import GuidanceConfig, MaskConfig
from .model import ModelConfig
from .sampling import (
    HEIGHT,
    MAX_SEED,
    NEGATIVE_PROMPT,
    SEED,
    SIZE,
    SOLVER,
    STEPS,
    TIMESTEP_SPACING,
    WIDTH,
    ZOOM,
    Sampled,
    Solver,
    TimestepSpacing,
    check_flowedit,
    check_solver,
)

Inversion = Literal["auto", "ddim", "negative-prompt", "noise", "flowedit"]
Easing = Literal["linear", "smooth", "in", "out"]
Spacing = Literal["uniform", "even"]

USUAL_STRENGTH = 0.8


@dataclass(frozen=True)
class EditConfig(Sampled):
    """Everything that `diffedit edit` needs besides the picture and the model."""

    ref: str = setting("", "What is in the picture now, for example horse. May be left out.", panel="Text")
    query: str = setting(
        "", "What to put there instead, for example zebra.", panel="Text", flags=("-p", "--prompt")
    )
    negative_prompt: str = NEGATIVE_PROMPT
    steps: int | None = STEPS
    solver: Solver = SOLVER
    timestep_spacing: TimestepSpacing = TIMESTEP_SPACING
    strength: float | None = setting(
        None,
        "Encoding ratio: how far the picture is taken back towards pure noise before it is redrawn, as a "
        "share of the steps. Higher values change more. Default: the model's own, or 0.8.",
        low=0.01,
        high=1,
    )
    seed: int | None = SEED
    inversion: Inversion = setting(
        "auto",
        "How the picture is turned into noise: DDIM inversion with the empty prompt, as in the paper (ddim), "
        "or with --ref as both prompt and negative prompt (negative-prompt); or by adding random noise "
        "(noise). flowedit, for flow-matching models, edits without an inversion. auto: the model's own, or "
        "noise with --solver lcm and ddim with any other.",
        expert=True,
    )
    inversion_rounds: int = setting(
        0,
        "Fixed-point iterations at each step of the inversion, so that decoding comes back closer to the "
        "picture. Each costs one more forward pass. For flow-matching models and few steps.",
        low=0,
        high=20,
        expert=True,
    )
    reuse: int = setting(
        1,
        "Number of steps that share one forward pass of the inversion, and one computation of guidance. 1 "
        "shares nothing; 2 takes a quarter less time and changes little.",
        low=1,
        high=10,
        expert=True,
    )
    size: int | None = SIZE
    zoom: bool | None = ZOOM
    keep_detail: bool = setting(
        True,
        "Restore the picture's own detail and tone inside the mask, wherever nothing changed. Not used with "
        "--mask-invert.",
    )
    per_object: bool = setting(
        False,
        "Edit each separate piece of the mask on its own, the largest first, and zoom in on it. If --query "
        "is repeated, each object is replaced by the next query, and all that remain by the last.",
    )
    next_queries: tuple[str, ...] = setting(
        (), "With --per-object: what replaces the second largest object, the third, and so on.", panel="Text"
    )
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    room: float = setting(
        0.11,
        "Room: the width of a margin around the mask that is redrawn too, so that an object of another "
        "shape fits; as a share of the square root of the mask's area. Not used with --mask or "
        "--mask-invert.",
        low=0,
        high=4,
        panel="Mask",
    )

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)
        if self.per_object and self.mask.invert:
            raise SettingError(
                "--per-object cannot be used with --mask-invert.",
                "Everything outside the mask counts as one piece; leave one of the two out.",
            )
        if self.inversion == "negative-prompt" and self.negative_prompt:
            raise SettingError(
                "--negative-prompt cannot be used with --inversion negative-prompt.",
                "That inversion takes --ref as the negative prompt; leave one of the two out.",
            )
        if self.solver == "lcm" and self.inversion in ("ddim", "negative-prompt"):
            raise SettingError(
                f"--inversion {self.inversion} cannot be used with --solver lcm.",
                "That solver adds fresh noise at every step: use --inversion noise, or --solver ddim.",
            )
        if self.reuse > 1 and self.inversion_rounds:
            raise SettingError(
                "--reuse above 1 cannot be used with --inversion-rounds.",
                "One saves forwards of the inversion, the other spends more; leave one of the two out.",
            )
        if self.inversion == "flowedit":
            check_flowedit(self.solver, self.guidance)

    @property
    def ratio(self) -> float:
        """The encoding ratio r: the strength that was given, or the usual one."""
        return USUAL_STRENGTH if self.strength is None else self.strength

    @property
    def encoding(self) -> Inversion:
        """The inversion that was chosen, or the usual one for the solver."""
        if self.inversion != "auto":
            return self.inversion
        return "noise" if self.solver == "lcm" else "ddim"

    @property
    def is_inverted(self) -> bool:
        """Whether the network itself turns the picture into noise."""
        return self.encoding in ("ddim", "negative-prompt")


@dataclass(frozen=True)
class GenerateConfig(Sampled):
    """Everything that `diffedit generate` needs besides the model."""

    prompt: str = setting("", "What the picture shows.", panel="Text")
    negative_prompt: str = NEGATIVE_PROMPT
    steps: int | None = STEPS
    solver: Solver = SOLVER
    timestep_spacing: TimestepSpacing = TIMESTEP_SPACING
    seed: int | None = SEED
    width: int | None = WIDTH
    height: int | None = HEIGHT
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)


@dataclass(frozen=True)
class InterpolateConfig(Sampled):
    """Everything that `diffedit interpolate` needs besides the model."""

    prompts: tuple[str, ...] = setting((), "Two or more prompts, in order.", panel="Text")
    negative_prompt: str = NEGATIVE_PROMPT
    frames: int = setting(
        12,
        "Frames from each prompt to the next, both included; a frame that two such legs share counts once.",
        low=2,
        high=10000,
    )
    fps: int = setting(12, "Frames per second.", low=1, high=120, panel="Files")
    ease: Easing = setting("linear", "How the change speeds up and slows down between two prompts.")
    spacing: Spacing = setting(
        "uniform",
        "Place the frames at equal steps between the prompts (uniform), or so that each looks equally "
        "different from the one before (even).",
        expert=True,
    )
    loop: bool = setting(False, "Return to the first prompt at the end, so that the film can repeat.")
    chain: float | None = setting(
        None,
        "After each prompt, start from the last frame, taken back towards noise over this share of the "
        "steps, instead of from fresh noise.",
        low=0.01,
        high=1,
        expert=True,
    )
    strength: float = setting(
        0.6, "With --init: the share of the steps over which the picture is redrawn.", low=0.01, high=1
    )
    steps: int | None = STEPS
    solver: Solver = SOLVER
    timestep_spacing: TimestepSpacing = TIMESTEP_SPACING
    seed: tuple[int, ...] = setting(
        (),
        "Seed of the noise: one for all prompts, or one for each (repeat the flag). Without one a random "
        "seed is chosen, printed and stored in the result.",
        low=0,
        high=MAX_SEED,
    )
    width: int | None = WIDTH
    height: int | None = HEIGHT
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        validate(self)
        check_solver(self.solver, self.guidance)
        if len(self.prompts) < 2:
            raise SettingError("An interpolation needs at least two prompts.", "Give them one after another.")
        if len(self.seed) > 1 and len(self.seed) != len(self.prompts):
            raise SettingError(
                f"{len(self.seed)} seeds do not match {len(self.prompts)} prompts.",
                "Give one --seed for all prompts, or one for each.",
            )
        if self.spacing == "even" and self.ease != "linear":
            raise SettingError(
                "--ease cannot be used with --spacing even.",
                "Even spacing places the frames itself; leave one of the two out.",
            )
        if self.solver == "lcm" and self.chain is not None:
            raise SettingError(
                "--chain cannot be used with --solver lcm.",
                "Fresh noise at every step leads away from the last frame; use --solver ddim.",
            )
        if self.loop and self.chain is not None:
            raise SettingError(
                "--loop cannot be used with --chain.",
                "A chain drifts away from its first picture, so it cannot return; leave one of the two out.",
            )


@dataclass(frozen=True)
class FilmConfig:
    """The film of an edit (`diffedit edit --animate`)."""

    frames: int = setting(
        24,
        "With --animate: number of frames from the picture to its edit, both included.",
        low=2,
        high=10000,
        panel="Film",
    )
    fps: int = setting(12, "With --animate: frames per second.", low=1, high=120, panel="Film")
    loop: bool = setting(False, "With --animate: go back to the picture at the end.", panel="Film")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class MergeConfig:
    """How `diffedit merge` decides what was changed (see core/align.py)."""

    threshold: float = setting(
        0.02,
        "How much more than the picture as a whole a pixel's colour must differ to count as changed; 1 is "
        "the difference between black and white.",
        low=0.001,
        high=1,
        panel="Mask",
    )
    grow: int = setting(
        1,
        "Grow the mask by this many cells of 4x4 pixels; a negative number shrinks it.",
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
class TalkConfig:
    """How much is printed, and in which form."""

    quiet: bool = setting(False, "Print nothing but errors.", panel="Messages", flags=("-q",))
    verbose: bool = setting(
        False, "Say where the time went, and show the traceback of an error.", panel="Messages", flags=("-v",)
    )
    json: bool = setting(False, "Print the result as JSON on stdout.", panel="Messages")


SCHEMAS = (EditConfig, GenerateConfig, InterpolateConfig, ModelConfig, TalkConfig)
