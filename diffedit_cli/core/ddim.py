"""DDIM (Song et al. 2020, arXiv 2010.02502): one deterministic step, inversion and decoding.

Decoding can take its steps by DPM-Solver++ or as a consistency model too, on the same noise levels.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NumericError
from .guidance import Guidance, GuidanceState, norm
from .schedules import add_noise, from_x0, to_eps, to_x0
from .types import (
    Denoiser,
    Heat,
    Latents,
    Level,
    PerSample,
    Pixels,
    PromptEmbeds,
    Report,
    Steps,
    Target,
    Timesteps,
    Trajectory,
    silent,
)


def ddim_step(
    latents: Latents, predicted: Latents, here: Level, after: Level, target: Target = "eps"
) -> Latents:
    """A step from one noise level to another: x' = alpha' x0 + sigma' eps, both taken from the prediction.

    Equation 12 of arXiv 2010.02502 with its sigma = 0; on a flow it is the Euler step x + (sigma' - sigma) v.
    The same formula serves inversion and decoding.
    """
    x0 = to_x0(latents, predicted, here, target)
    return add_noise(x0, to_eps(latents, predicted, here, target), after)


def second_order(x0: Latents, before: Latents, levels: list[Level], i: int) -> Latents:
    """The x0 that DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2) uses in step i.

    D = x0 + h_i / (2 h_(i-1)) (x0 - before), where `before` is x0 of step i - 1, and h_i the step's length in
    log(alpha / sigma). The solver's step is that of DDIM with D for x0, so it ends at the same noise level.
    The first and the last step, and one after pure noise, are of first order: D = x0.
    """
    if i == 0 or i == len(levels) - 2 or levels[i - 1].alpha == 0:
        return x0
    last, here, after = (math.log(alpha / sigma) for alpha, sigma in levels[i - 1 : i + 2])
    return x0 if here == last else x0 + (after - here) / (here - last) / 2 * (x0 - before)


def consistency_step(
    latents: Latents, predicted: Latents, steps: Steps, i: int, fresh: Float[Tensor, "n b c h w"] | None
) -> Latents:
    """Step i of solver lcm: x' = alpha' x0 + sigma' n with fresh noise n, and x0 at the end.

    Multistep sampling of a consistency model (Luo et al. 2023, arXiv 2310.04378, algorithm 1). A source that
    was noised with the same n at that level (see renoise) matches what is drawn.
    """
    if fresh is None:
        raise ValueError("solver lcm needs fresh noise for each level")
    x0 = to_x0(latents, predicted, steps.level(i), steps.target)
    return x0 if i == len(steps) - 1 else add_noise(x0, fresh[i + 1], steps.level(i + 1))


def invert(
    denoiser: Denoiser, x0: Latents, steps: Steps, embeds: PromptEmbeds, stride: int = 1, rounds: int = 0
) -> Iterator[Latents]:
    """DDIM encoding: yields the latents at each level above x0, least noise first, len(steps) of them.

    One forward pass for every `stride` levels, without guidance: all of them are computed from it. The
    network is evaluated at the timestep of the middle one. With stride 1 that is the one that the step leads
    to, as in diffusers' DDIMInverseScheduler and as in decoding. rounds: see `settle`; only with stride 1.
    """
    latents, texts, levels, here = x0, embeds.expand(len(x0)), steps.levels, len(steps)
    while here > 0:
        after = max(here - stride, 0)
        middle = (after + here) // 2
        timesteps = steps.timesteps[middle : middle + 1].to(x0.device).expand(len(x0))
        predicted = denoiser.predict(latents, timesteps, texts)
        if rounds:
            predicted = settle(denoiser, latents, predicted, timesteps, texts, steps, after, rounds)
        passed = [
            ddim_step(latents, predicted, levels[here], levels[i], steps.target)
            for i in reversed(range(after, here))
        ]
        yield from passed
        latents, here = passed[-1], after


def settle(
    denoiser: Denoiser,
    latents: Latents,
    predicted: Latents,
    timesteps: Timesteps,
    texts: PromptEmbeds,
    steps: Steps,
    i: int,
    rounds: int,
) -> Latents:
    """The prediction of an inversion step to level i, refined so that decoding from there leads back.

    Each round costs one more forward pass and repeats the step with the prediction at the point that it led
    to (Pan et al. 2023, arXiv 2309.04907, section 3.2). A round that moves a picture further than the one
    before diverges: it is discarded, and is that picture's last.
    """
    pair = steps.level(i + 1), steps.level(i)
    led = ddim_step(latents, predicted, *pair, steps.target)
    moved = norm(led - latents)
    for _ in range(rounds):
        again = denoiser.predict(led, timesteps, texts)
        to = ddim_step(latents, again, *pair, steps.target)
        gap = norm(to - led)
        is_closer = ~(gap >= moved)  # NaN goes on, to be told of
        predicted, led = torch.where(is_closer, again, predicted), torch.where(is_closer, to, led)
        moved = torch.where(is_closer, gap, 0)
    return predicted


def renoise(x0: Latents, noise: Tensor, steps: Steps) -> Trajectory:
    """The trajectory of a source that is merely noised, not inverted (fast.ai lesson 11; SDEdit's start).

    noise: one for all levels, (b c h w), or as `level_noise` draws it.
    """
    each = noise.expand(len(steps), *x0.shape)
    noised = [add_noise(x0, one, level) for one, level in zip(each, steps.levels, strict=False)]
    return Trajectory(torch.stack([*noised, x0]))


def begun(mask: Heat, left: int, count: int) -> Heat:
    """Where redrawing has begun, as 0 or 1, when `left` of `count` steps are left, this one included.

    Grey g is redrawn in the last round(g count) steps, as by a run of g times the strength. Differential
    diffusion (Levin and Fried 2023, arXiv 2306.00950).
    """
    return (mask * count >= left - 0.5).to(mask)


def decode(
    denoiser: Denoiser,
    latents: Latents,
    steps: Steps,
    cond: PromptEmbeds,
    uncond: PromptEmbeds,
    guidance: Guidance,
    mask: Heat | None = None,
    source: Trajectory | None = None,
    share: PerSample | None = None,
    fresh: Float[Tensor, "n b c h w"] | None = None,
    *,
    by_strength: bool = False,
) -> Iterator[Latents]:
    """Decode with guidance: yields the latents after each step, the last ones without noise.

    With a mask and a source, each step ends with m * y + (1 - m) * source at the level that the step has
    reached (DiffEdit, arXiv 2210.11427, step 3), so the background ends as exactly x0. `share`: how much of
    the guidance each picture gets. `fresh`: the noise at each level (see level_noise).
    """
    state, levels, target, before = GuidanceState(), steps.levels, steps.target, latents
    for i in range(len(steps)):
        predicted, state = guidance.predict(denoiser, latents, i, cond, uncond, state, share)
        if steps.solver == "dpm++":
            x0 = to_x0(latents, predicted, levels[i], target)
            predicted = from_x0(latents, second_order(x0, before, levels, i), levels[i], target)
            before = x0
        if steps.solver == "lcm":
            latents = consistency_step(latents, predicted, steps, i, fresh)
        else:
            latents = ddim_step(latents, predicted, levels[i], levels[i + 1], target)
        if mask is not None and source is not None:
            redrawn = begun(mask, len(steps) - i, len(steps)) if by_strength else mask
            latents = torch.lerp(source.latents[i + 1], latents, redrawn)
        yield latents


def finish(
    denoiser: Denoiser, run: Iterator[Latents], stage: str, total: int, report: Report = silent
) -> Pixels:
    """Run a `decode` of `total` steps to its end, report each step, and turn the last latents into pixels."""
    report(stage, 0, total)
    latents = next(run)
    report(stage, 1, total)
    for done, after in enumerate(run, start=2):
        latents = after
        report(stage, done, total)
    require_finite(latents, "the predicted picture")
    pixels = denoiser.decode(latents)
    require_finite(pixels, "the decoded picture")
    return pixels


def require_finite(values: torch.Tensor, what: str) -> None:
    """NumericError if any value is NaN or infinite, so that no black picture is ever written."""
    if not bool(torch.isfinite(values).all()):
        raise NumericError(
            f"The model produced values that are not numbers (NaN or infinity) in {what}.",
            "Try --dtype float32, or another checkpoint; nothing was written.",
        )
