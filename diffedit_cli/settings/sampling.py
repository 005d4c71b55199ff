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
    "How each step is computed: DDIM (ddim); the second-order DPM-Solver++ (dpm++), for runs with few "
    "steps; or with fresh noise after each step (lcm), for latent consistency models. auto: the model's "
    "own, or ddim.",
    expert=True,
)
TIMESTEP_SPACING: TimestepSpacing = setting(
    "auto",
    "Which timesteps the steps visit: those of the checkpoint's scheduler (scheduler), or leading, "
    "trailing, linspace or lcm. auto: what suits a few-step model, or scheduler.",
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
    "Working size: the picture, or the part to redraw, is scaled to the area of a square with this side, in "
    "pixels. "
    "Default: the model's own.",
    low=32,
    high=4096,
)
ZOOM: bool | None = setting(
    None,
    "Zoom in on a small object, and redraw only the region around it. Default: only if this shows the "
    "object at least twice as large.",
)
WIDTH: int | None = setting(None, "Width in pixels. Default: the model's own.", low=32, high=4096)
HEIGHT: int | None = setting(None, "Height in pixels. Default: the model's own.", low=32, high=4096)


def check_solver(solver: Solver, guidance: GuidanceConfig) -> None:
    """SettingError for a solver and a guidance method that cannot be combined."""
    if solver in ("dpm++", "lcm") and guidance.method == "cfg++":
        raise SettingError(
            f"--solver {solver} cannot be used with --guidance-method cfg++.",
            "That method works only with DDIM; leave one of the two out.",
        )


def check_flowedit(solver: Solver, guidance: GuidanceConfig) -> None:
    """SettingError for settings that cannot be combined with FlowEdit."""
    given = {
        f"--solver {solver}": solver in ("dpm++", "lcm"),
        f"--guidance-method {guidance.method}": guidance.method not in ("auto", "cfg", "embedded"),
        f"--guidance-norm {guidance.norm}": guidance.norm not in PLAIN_NORMS,
        "--guidance-rescale": guidance.rescale > 0,
    }
    if flag := next((flag for flag, is_given in given.items() if is_given), ""):
        raise SettingError(
            f"{flag} cannot be used with --inversion flowedit.",
            "Its steps use the difference of two predictions with plain guidance; leave that flag out.",
        )


class Sampled:
    """How several configs read their steps: as given, or the usual (a model's own: see `filled_in`)."""

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
