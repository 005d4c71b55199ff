"""The noise levels of a flow, by diffusers' own scheduler, from its checked config."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..core.types import Cells, FlowSchedule
from ..errors import ModelError
from .families import Family

CLASS = "FlowMatchEulerDiscreteScheduler"
MANY = 200  # steps, to which the shift of FLUX.2 is fitted
LIMITS = {
    "shift": (0.01, 100.0),
    "base_shift": (-10.0, 10.0),
    "max_shift": (-10.0, 10.0),
    "base_image_seq_len": (1, 10**6),
    "max_image_seq_len": (1, 10**6),
    "shift_terminal": (0.0, 0.5),
}
FLAGS = ("use_dynamic_shifting", "stochastic_sampling")
OTHERS = (  # ways to spend the time that no supported model uses
    "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
)  # fmt: skip


@dataclass(frozen=True)
class EulerFlowSchedule(FlowSchedule):
    """The levels of diffusers' FlowMatchEulerDiscreteScheduler.

    config: its arguments. has_even_times: the times are 1, 1 - 1/n, ..., 1/n, as the pipeline of FLUX sets
    them; otherwise the scheduler's own, whose last one it has shifted before (diffusers issue 13243).
    has_fitted_shift: see families.Family.
    """

    config: Mapping[str, Any]
    has_even_times: bool
    has_fitted_shift: bool = False

    def sigmas(self, count: int, cells: Cells) -> Float[Tensor, " s_plus_1"]:
        own = self if count > 1 else self._unstretched()
        if self.has_even_times:
            return own._set(cells, count, sigmas=np.linspace(1.0, 1 / count, count)).sigmas.double()
        return own._set(cells, count, num_inference_steps=count).sigmas.double()

    def sigma_at(self, time: float, cells: Cells) -> float:
        return float(self._unstretched()._set(cells, MANY, sigmas=np.array([time])).sigmas[0])

    def _unstretched(self) -> "EulerFlowSchedule":
        """The levels without shift_terminal, which stretches the times of a run so that the last is there."""
        return replace(self, config={**self.config, "shift_terminal": None})

    def _set(self, cells: Cells, count: int, **times: Any) -> Any:
        """The scheduler, set to these times for a picture of this size in `count` steps."""
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler(**self.config)
        shift = fitted_shift if self.has_fitted_shift else shift_of
        mu = shift(scheduler.config, cells, count) if scheduler.config.use_dynamic_shifting else None
        scheduler.set_timesteps(mu=mu, **times)
        return scheduler


def tokens_of(cells: Cells) -> int:
    return (cells[0] // 2) * (cells[1] // 2)


def fitted_shift(config: Any, cells: Cells, count: int) -> float:
    """mu as FLUX.2 has it, fitted to the tokens and the steps."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    return compute_empirical_mu(tokens_of(cells), count)


def shift_of(config: Any, cells: Cells, count: int) -> float:
    """mu, the logarithm of the shift, where it depends on the size: linear in the tokens of 2x2 cells."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens_of(cells) - config.base_image_seq_len)


def read_flow(name: str, config: Mapping[str, Any], family: Family) -> EulerFlowSchedule:
    """The schedule in a scheduler's config. ModelError: it is of another kind, or spoilt."""
    what, hint = f"{name}/scheduler/scheduler_config.json", "Fetch it again."
    kind = config.get("_class_name")
    if kind != CLASS:
        raise ModelError(
            f"{name} has a scheduler that is not supported ({kind}).",
            f"The one that such models are published with is {CLASS}.",
        )
    if other := next((key for key in OTHERS if config.get(key)), ""):
        raise ModelError(
            f"{name} has a scheduler with {other}, which is not supported.",
            "Use a checkpoint whose scheduler does not need it.",
        )
    if config.get("num_train_timesteps", 1000) != 1000:
        raise ModelError(f"{what} is invalid: num_train_timesteps is not 1000.", hint)
    if config.get("time_shift_type", "exponential") not in ("exponential", "linear"):
        raise ModelError(f"{what} is invalid: time_shift_type is neither exponential nor linear.", hint)
    own: dict[str, Any] = {"time_shift_type": config.get("time_shift_type", "exponential")}
    for key, (low, high) in LIMITS.items():
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ModelError(f"{what} is invalid: {key} is not a number from {low:g} to {high:g}.", hint)
        own[key] = value
    for key in FLAGS:
        if not isinstance(config.get(key, False), bool):
            raise ModelError(f"{what} is invalid: {key} is neither true nor false.", hint)
    own["use_dynamic_shifting"] = config.get("use_dynamic_shifting", False)
    if own.get("base_image_seq_len", 256) >= own.get("max_image_seq_len", 4096):
        raise ModelError(f"{what} is invalid: base_image_seq_len is not below max_image_seq_len.", hint)
    return EulerFlowSchedule(own, family.has_even_times, family.has_fitted_shift)


def describe_flow(schedule: EulerFlowSchedule) -> str:
    """How a scheduler is read, in words."""
    grows = f"shifted by {schedule.config.get('shift', 1.0):g}"
    if schedule.config["use_dynamic_shifting"]:
        steps = " and the steps" if schedule.has_fitted_shift else ""
        grows = f"shifted by the size of the picture{steps}"
    return f"{CLASS}, its own noise levels, {grows}"
