"""The noise schedule that a checkpoint was trained with, read from the config of its scheduler.

The scheduler's own step rule is not used; only its betas, the spacing of its timesteps, and the noise level
at which its runs end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.types import Schedule
from ..errors import ModelError

HELP = "Use a checkpoint that was trained on the noise schedule of Stable Diffusion."
MOST_TIMESTEPS = 10_000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
ENDS = ("beta_start", "beta_end")
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Reading:
    """How the config of one scheduler class is read.

    ends: the level at which a run ends. clean: no noise, abar is 1. first: that of timestep 0. Otherwise the
    key of the config that chooses one of the two. ends_clean: what holds where the config lacks that key.
    spacing: what holds where the config names none; lcm is fixed by the class.
    """

    ends: str
    ends_clean: bool = True
    spacing: str = "linspace"


SUPPORTED = {  # defaults are those of the classes in diffusers
    "DDIMScheduler": Reading("set_alpha_to_one", spacing="leading"),
    "DDIMParallelScheduler": Reading("set_alpha_to_one", spacing="leading"),
    "PNDMScheduler": Reading("set_alpha_to_one", ends_clean=False, spacing="leading"),
    "LCMScheduler": Reading("set_alpha_to_one", spacing="lcm"),
    "TCDScheduler": Reading("set_alpha_to_one", spacing="lcm"),
    "DDPMScheduler": Reading("clean", spacing="leading"),
    "DDPMParallelScheduler": Reading("clean", spacing="leading"),
    "EulerDiscreteScheduler": Reading("final_sigmas_type"),
    "EulerAncestralDiscreteScheduler": Reading("clean"),
    "HeunDiscreteScheduler": Reading("clean"),
    "KDPM2DiscreteScheduler": Reading("clean"),
    "KDPM2AncestralDiscreteScheduler": Reading("clean"),
    "LMSDiscreteScheduler": Reading("clean"),
    "DPMSolverSDEScheduler": Reading("clean"),
    "DPMSolverMultistepScheduler": Reading("final_sigmas_type"),
    "DPMSolverSinglestepScheduler": Reading("final_sigmas_type"),
    "UniPCMultistepScheduler": Reading("final_sigmas_type"),
    "DEISMultistepScheduler": Reading("first"),
    "SASolverScheduler": Reading("first"),
    # made for EDM; repositories of plain XL carry them together with their betas
    "EDMDPMSolverMultistepScheduler": Reading("final_sigmas_type", spacing="leading"),
    "EDMEulerScheduler": Reading("final_sigmas_type", spacing="leading"),
}
FLOW, TOKENS = "it is made for flow matching", "it works on tokens, not on latents"
SDE, VIDEO = "it has a noise schedule of its own", "it is made for video"
REFUSED = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "CMStochasticIterativeScheduler": SDE,
    "CogVideoXDDIMScheduler": VIDEO,
    "CogVideoXDPMScheduler": VIDEO,
    "ConsistencyDecoderScheduler": "it is part of a decoder",
    "CosineDPMSolverMultistepScheduler": SDE,
    "DDIMInverseScheduler": "it runs from a picture to noise",
    "DDPMWuerstchenScheduler": SDE,
    "DPMSolverMultistepInverseScheduler": "it runs from a picture to noise",
    "DiscreteDDIMScheduler": TOKENS,
    "EntropyBoundScheduler": TOKENS,
    "FlowMapEulerDiscreteScheduler": FLOW,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "HeliosDMDScheduler": FLOW,
    "HeliosScheduler": FLOW,
    "IPNDMScheduler": SDE,
    "KarrasVeScheduler": SDE,
    "LTXEulerAncestralRFScheduler": FLOW,
    "MiniMaxH3Scheduler": FLOW,
    "PiflowScheduler": FLOW,
    "RFD4ProteinaScheduler": "it is made for proteins",
    "RePaintScheduler": "it is made for inpainting",
    "SCMScheduler": FLOW,
    "ScoreSdeVeScheduler": SDE,
    "ScoreSdeVpScheduler": SDE,
    "UnCLIPScheduler": "it is made for unCLIP",
    "VQDiffusionScheduler": TOKENS,
}


def read_schedule(name: str, config: Mapping[str, Any]) -> tuple[Schedule, bool]:
    """The schedule in a scheduler's config, and whether the network predicts v; otherwise it predicts eps.

    Raises ModelError if the config asks for another kind of schedule, or lacks what defines one: the defaults
    of the classes are not those of any Stable Diffusion.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    reading = reading_of(name, config)
    target = config.get("prediction_type", "epsilon")
    if target not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{name} predicts {target}, not the noise.", "Use a checkpoint with epsilon or v_prediction."
        )
    check_betas(name, config)
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    betas: Any = {key: config[key] for key in keys if config.get(key) is not None}
    betas["rescale_betas_zero_snr"] = flag(name, config, "rescale_betas_zero_snr")
    alphas = DDIMScheduler(**betas).alphas_cumprod
    is_lcm = reading.spacing == "lcm"
    schedule = Schedule(
        # zero terminal SNR ends at 0, where eps tells nothing of x0; 1e-6 is as good as pure noise
        alphas_cumprod=alphas.double().clamp_min(1e-6),
        final_alpha=1.0 if ends_clean(name, config, reading) else float(alphas[0]),
        spacing="lcm" if is_lcm else choice(name, config, "timestep_spacing", reading.spacing, SPACINGS),
        steps_offset=whole(name, config, "steps_offset", 0, 0, len(alphas)),
        distilled_steps=whole(name, config, "original_inference_steps", 50, 1, len(alphas)) if is_lcm else 50,
    )
    return schedule, target == "v_prediction"


def reading_of(name: str, config: Mapping[str, Any]) -> Reading:
    """How this config is read. ModelError for a class, or a mode of one, that is not supported."""
    kind = config.get("_class_name")
    if config.get("use_flow_sigmas"):
        raise ModelError(f"{name} asks for a flow-matching schedule (use_flow_sigmas).", HELP)
    if not isinstance(kind, str) or kind not in SUPPORTED:
        why = REFUSED.get(str(kind), "it is not known" if kind else "it has no _class_name")
        raise ModelError(f"{name} has a scheduler that is not supported ({kind}): {why}.", HELP)
    return SUPPORTED[kind]


def check_betas(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a config that does not define its noise levels, or defines impossible ones."""
    trained, kind = config.get("trained_betas"), config.get("beta_schedule")
    whole(name, config, "num_train_timesteps", 1000, 1, MOST_TIMESTEPS)
    if trained is not None:
        if not isinstance(trained, (list, tuple)) or not 1 <= len(trained) <= MOST_TIMESTEPS:
            raise spoilt(name, "trained_betas", "a list of numbers")
        betas = list(trained)
    elif kind is None or (kind != "squaredcos_cap_v2" and None in map(config.get, ENDS)):
        raise ModelError(f"{name} has a scheduler without betas: its noise levels are unknown.", HELP)
    else:
        choice(name, config, "beta_schedule", "", BETA_SCHEDULES)
        betas = [config[key] for key in ENDS if config.get(key) is not None]
    if not all(isinstance(beta, (int, float)) and 0 < beta < 1 for beta in betas):
        raise spoilt(name, "betas", "numbers between 0 and 1")


def ends_clean(name: str, config: Mapping[str, Any], reading: Reading) -> bool:
    """Whether a run ends without noise; otherwise it ends at the level of timestep 0."""
    if reading.ends in ("clean", "first"):
        return reading.ends == "clean"
    if reading.ends == "final_sigmas_type":
        return choice(name, config, reading.ends, "zero", ("zero", "sigma_min")) == "zero"
    return flag(name, config, reading.ends, reading.ends_clean)


def whole(name: str, config: Mapping[str, Any], key: str, usual: int, low: int, high: int) -> int:
    value = usual if config.get(key) is None else config[key]
    if type(value) is not int or not low <= value <= high:
        raise spoilt(name, key, f"a whole number from {low} to {high}")
    return value


def flag(name: str, config: Mapping[str, Any], key: str, usual: bool = False) -> bool:
    value = usual if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise spoilt(name, key, "true or false")
    return value


def choice(name: str, config: Mapping[str, Any], key: str, usual: str, choices: tuple[str, ...]) -> str:
    value = usual if config.get(key) is None else config[key]
    if value not in choices:
        raise spoilt(name, key, f"one of {', '.join(choices)}")
    return value


def spoilt(name: str, key: str, wanted: str) -> ModelError:
    return ModelError(f"{name} has a scheduler whose {key} cannot be used: it must be {wanted}.", HELP)


def describe_schedule(config: Mapping[str, Any], schedule: Schedule) -> str:
    """How a scheduler is read, in words."""
    end = "ends clean" if schedule.final_alpha == 1 else "ends at the level of the first timestep"
    return f"{config.get('_class_name')}, read as DDIM with {schedule.spacing} timesteps; {end}"


def plain_config(scheduler: Any) -> dict[str, Any]:
    """The config of a loaded scheduler, as its file has it."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}
