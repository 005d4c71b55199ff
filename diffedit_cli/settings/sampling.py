"""How steps are taken, and what they start from: settings that several configs have."""

from typing import Literal

from ..errors import SettingError
from .fields import setting
from .groups import PLAIN_NORMS, GuidanceConfig

Solver = Literal["auto", "ddim", "dpm++", "lcm"]
TimestepSpacing = Literal["auto", "scheduler", "leading", "trailing", "linspace", "lcm"]

MAX_SEED = 2**32 - 1
USUAL_STEPS = 25

# Settings that several configs have. Each is one dataclass field that all of them use.
NEGATIVE_PROMPT = setting("", "What must not appear in the result.", panel="Text")
STEPS: int | None = setting(
    None,
    "Number of steps from pure noise to a picture. Default: the model's own, or 25.",
    low=1,
    high=1000,
)
SOLVER: Solver = setting(
    "auto",
    "How each step is taken: DDIM (ddim); the second-order DPM-Solver++ (dpm++), for runs with few steps; or "
    "with fresh noise after each step (lcm), for latent consistency models. auto: the model's own, or ddim.",
    expert=True,
)
TIMESTEP_SPACING: TimestepSpacing = setting(
    "auto",
    "Which timesteps the steps visit: as the checkpoint's scheduler says (scheduler), or leading, trailing, "
    "linspace or lcm. auto: what suits a few-step model, or scheduler.",
    expert=True,
)
SEED: int | None = setting(
    None,
    "Seed of all noise. Without one a random seed is chosen, printed and stored in the result.",
    low=0,
    high=MAX_SEED,
)
SIZE: int | None = setting(
    None,
    "Working size: what is redrawn is scaled to the area of a square with this side, in pixels. "
    "Default: the model's own.",
    low=32,
    high=4096,
)
ZOOM: bool | None = setting(
    None,
    "Search for a small object at closer and closer range, and redraw only the region around it. Default: "
    "only where this shows the object at least twice as large.",
)
WIDTH: int | None = setting(None, "Width in pixels. Default: the model's own.", low=32, high=4096)
HEIGHT: int | None = setting(None, "Height in pixels. Default: the model's own.", low=32, high=4096)


def check_solver(solver: Solver, guidance: GuidanceConfig) -> None:
    """SettingError for a solver and a guidance that do not go together."""
    if solver in ("dpm++", "lcm") and guidance.method == "cfg++":
        raise SettingError(
            f"--solver {solver} cannot be used with --guidance-method cfg++.",
            "That method is made for DDIM; leave one of the two out.",
        )


def check_flowedit(solver: Solver, guidance: GuidanceConfig) -> None:
    """SettingError for settings that do not go with FlowEdit."""
    given = {
        f"--solver {solver}": solver in ("dpm++", "lcm"),
        f"--guidance-method {guidance.method}": guidance.method not in ("auto", "cfg", "embedded"),
        f"--guidance-norm {guidance.norm}": guidance.norm not in PLAIN_NORMS,
        "--guidance-rescale": guidance.rescale > 0,
    }
    if flag := next((flag for flag, is_given in given.items() if is_given), ""):
        raise SettingError(
            f"{flag} cannot be used with --inversion flowedit.",
            "Its steps are the difference of two plainly guided predictions; leave it out.",
        )


class Sampled:
    """How several configs read their steps: what was given, else the usual (a model's own: `filled_in`)."""

    steps: int | None
    solver: Solver
    timestep_spacing: TimestepSpacing

    @property
    def step_count(self) -> int:
        return USUAL_STEPS if self.steps is None else self.steps

    @property
    def step_solver(self) -> Solver:
        return "ddim" if self.solver == "auto" else self.solver

    @property
    def step_spacing(self) -> TimestepSpacing:
        return "scheduler" if self.timestep_spacing == "auto" else self.timestep_spacing
