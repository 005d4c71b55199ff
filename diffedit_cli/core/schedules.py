"""Which noise levels a run visits, how guidance changes over them, and where all noise comes from."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from ..errors import SettingError
from ..settings import GuidanceSchedule, Solver, TimestepSpacing, require_own_levels
from .types import Cells, FlowSchedule, Latents, Level, PerSample, Schedule, Steps, Target, Timesteps

FRESH = 10_000  # index of the first fresh noise of a solver, beyond those of the search's noise maps
MOST_SIGMA = 0.98  # of a flow, where a picture is searched: nothing is left of it in pure noise


def round_half_up(value: float) -> int:
    """The nearest whole number, .5 upwards. int(0.29 * 100) is 28; this is 29."""
    return math.floor(value + 0.5 + 1e-9)


def make_steps(
    schedule: Schedule | FlowSchedule,
    count: int,
    strength: float = 1.0,
    solver: Solver = "ddim",
    spacing: TimestepSpacing = "scheduler",
    cells: Cells = (0, 0),
) -> Steps:
    """The last round(strength * count), at least one, of `count` steps.

    cells: of the latents; the levels of a flow may depend on them.
    SettingError: more steps than the model has, or timesteps that it does not have.
    """
    if not isinstance(schedule, FlowSchedule):
        return vp_steps(schedule, count, strength, solver, spacing)
    require_own_levels(spacing)
    check_count(count, schedule.most_steps)
    sigmas = schedule.sigmas(count, cells)[-taken(strength, count) - 1 :]
    return Steps(1000 * sigmas[:-1].float(), 1 - sigmas, sigmas, solver, schedule.target)


def vp_steps(
    schedule: Schedule, count: int, strength: float, solver: Solver, spacing: TimestepSpacing
) -> Steps:
    """`make_steps` on a schedule of Stable Diffusion.

    spacing: of the timesteps; scheduler: the schedule's own. A run that is given trailing or lcm ends without
    noise, as with the schedulers of few-step models.

    The timesteps are those of diffusers' DDIMScheduler for the same spacing. Each level follows the one
    before it in the list, where diffusers subtracts T // count: the same for `leading`, and for
    `linspace` and `trailing` free of its rounding. For `lcm` they are those of its LCMScheduler.
    """
    if spacing != "scheduler":
        clean = 1.0 if spacing in ("trailing", "lcm") else schedule.final_alpha
        schedule = replace(schedule, spacing=spacing, final_alpha=clean)
    total = len(schedule.alphas_cumprod)
    check_count(count, schedule.most_steps)
    if schedule.spacing == "leading":
        timesteps = torch.arange(count).flip(0) * (total // count) + schedule.steps_offset
    elif schedule.spacing == "trailing":
        timesteps = (total - torch.arange(count, dtype=torch.float64) * total / count).round().long() - 1
    elif schedule.spacing == "linspace":
        timesteps = torch.linspace(0, total - 1, count, dtype=torch.float64).round().long().flip(0)
    elif schedule.spacing == "lcm":
        timesteps = lcm_timesteps(total, schedule.distilled_steps, count)
    else:
        raise ValueError(f"unknown timestep spacing {schedule.spacing!r}")
    timesteps = timesteps.clamp(0, total - 1)[-taken(strength, count) :]
    passed = schedule.alphas_cumprod.double()[timesteps].tolist()
    levels = [vp_level(abar) for abar in (*passed, schedule.final_alpha)]
    alphas, sigmas = torch.tensor(levels, dtype=torch.float64).unbind(1)
    return Steps(timesteps, alphas, sigmas, solver)


def taken(strength: float, count: int) -> int:
    """How many of `count` steps a run with this strength takes."""
    return max(1, round_half_up(strength * count))


def check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise SettingError(
            f"--steps {count} is out of range for this model.", f"Give a value from 1 to {most}."
        )


def levels_at(
    schedule: Schedule | FlowSchedule, shares: Sequence[float], like: Latents
) -> tuple[Timesteps, Level]:
    """For each row of latents (b c h w), the timestep and the level (b 1 1 1) at a share of the time.

    For a flow it is the time before its shift, and sigma is at most MOST_SIGMA.
    """
    if isinstance(schedule, FlowSchedule):
        found = [schedule.sigma_at(share, (like.shape[2], like.shape[3])) for share in shares]
        sigmas = torch.tensor(found, device=like.device).clamp(max=MOST_SIGMA)
        sigma = append_dims(sigmas, like)
        return 1000 * sigmas, Level(1 - sigma, sigma)
    alphas = schedule.alphas_cumprod
    timesteps = torch.tensor([round_half_up(share * len(alphas)) - 1 for share in shares])
    timesteps = timesteps.clamp_min(0).to(like.device)
    return timesteps, vp_level(append_dims(alphas.to(like)[timesteps], like))


def lcm_timesteps(total: int, distilled: int, count: int) -> Int[Tensor, " s"]:
    """`count` of the `distilled` timesteps of a latent consistency model (Luo et al. 2023, arXiv 2310.04378).

    Noisiest first: 4 of 50 are 999, 759, 499, 259.
    """
    taught = (torch.arange(1, distilled + 1) * (total // distilled) - 1).flip(0)
    return taught[torch.arange(count) * distilled // count]


def guidance_scales(kind: GuidanceSchedule, scale: float, end: float, count: int) -> list[float]:
    """The guidance scale of each of `count` steps; both ends of a schedule are reached.

    linear-down and cosine-down fall from `scale` to `end` (fast.ai lesson 11), linear-up rises from `end` to
    `scale` (Wang et al. 2024, arXiv 2404.13040). A single step uses the full scale.
    """
    scales: list[float] = []
    for step in range(count):
        done = step / max(count - 1, 1)
        share = {
            "constant": 1.0,
            "linear-down": 1 - done,
            "cosine-down": (1 + math.cos(math.pi * done)) / 2,
            "linear-up": done if count > 1 else 1.0,
        }[kind]
        scales.append(share * scale + (1 - share) * end)
    return scales


def inside_interval(interval: tuple[float, float], count: int) -> list[bool]:
    """Which of `count` steps are guided (Kynkaanniemi et al. 2024, arXiv 2404.07724).

    The fractions a:b mean the steps from round(a * count) up to but not including round(b * count), halves
    rounded up.
    """
    first, last = (round_half_up(fraction * count) for fraction in interval)
    return [first <= step < last for step in range(count)]


def vp_level(abar: float | PerSample) -> Level:
    """The level sqrt(abar), sqrt(1 - abar) of a variance-preserving schedule: Stable Diffusion's."""
    return Level(abar**0.5, (1 - abar) ** 0.5)


def add_noise(x0: Latents, noise: Latents, level: Level) -> Latents:
    """x = alpha x0 + sigma noise (Ho et al. 2020, arXiv 2006.11239, equation 4)."""
    return level.alpha * x0 + level.sigma * noise


def to_x0(latents: Latents, predicted: Latents, level: Level, target: Target = "eps") -> Latents:
    """x0 = (x - sigma eps) / alpha (arXiv 2010.02502, equation 9), on a flow x - sigma v."""
    if target == "flow":
        return latents - level.sigma * predicted
    return (latents - level.sigma * predicted) / level.alpha


def to_eps(latents: Latents, predicted: Latents, level: Level, target: Target = "eps") -> Latents:
    """The noise that a prediction implies: eps itself; on a flow x + alpha v, finite where alpha is 0."""
    return latents + level.alpha * predicted if target == "flow" else predicted


def from_x0(latents: Latents, x0: Latents, level: Level, target: Target = "eps") -> Latents:
    """The prediction that implies this x0, the inverse of `to_x0`: (x - alpha x0) / sigma; on a flow (x - x0)
    / sigma."""
    return (latents - (x0 if target == "flow" else level.alpha * x0)) / level.sigma


def v_to_eps(latents: Latents, v: Latents, level: Level) -> Latents:
    """eps = alpha v + sigma x (Salimans and Ho 2022, arXiv 2202.00512, appendix D)."""
    return level.alpha * v + level.sigma * latents


def append_dims(values: Num[Tensor, " b"], like: Latents) -> PerSample:
    """One value per picture, with a shape (b 1 1 1) and dtype that broadcast against latents (b c h w)."""
    return values.to(like)[:, None, None, None]


def draw_noise(shape: tuple[int, int, int], seeds: list[int], index: int = 0) -> Latents:
    """Standard normal noise (b c h w), float32, on the CPU; row i depends on seeds[i] and `index` alone.

    So a picture's noise does not change with the batch, the micro-batches or the device. With index 0 it
    is what diffusers draws from torch.Generator().manual_seed(seed).
    """
    # the CPU's generator hears only the low 32 bits of a seed; an odd factor gives each index its own
    mixed = [(seed + index * 0x9E3779B1) % 2**32 for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in mixed]
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])


def level_noise(shape: tuple[int, int, int], seeds: list[int], steps: Steps) -> Float[Tensor, "n b c h w"]:
    """The noise at the levels of a run: one for all (n = 1), or with solver lcm a fresh one at each (n = s).

    The first is `draw_noise`'s with index 0 in both.
    """
    count = len(steps) if steps.solver == "lcm" else 1
    return torch.stack([draw_noise(shape, seeds, FRESH + i if i else 0) for i in range(count)])
