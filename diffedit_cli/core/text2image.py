"""Text to image, and the frames between prompts. Pure torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..settings import GenerateConfig, GuidanceConfig, InterpolateConfig
from .ddim import decode, finish, invert
from .guidance import Guidance
from .interpolate import FRAMES_AT_ONCE, leg_weights, lerp, mean_gap, slerp, spread_evenly
from .schedules import add_noise, append_dims, level_noise, make_steps
from .types import Denoiser, Latents, Pixels, PromptEmbeds, Report, Steps, silent

Shape = tuple[int, int, int]  # c h w of the latents


def generate(
    denoiser: Denoiser, config: GenerateConfig, shape: Shape, seeds: list[int], report: Report = silent
) -> Pixels:
    """Pictures (b 3 H W) of one prompt, from pure noise; one for each seed."""
    cond, uncond = (denoiser.embed([text]) for text in (config.prompt, config.negative_prompt))
    how = config.step_solver, config.step_spacing, shape[1:]
    steps = make_steps(denoiser.schedule, config.step_count, 1.0, *how)
    noise = level_noise(shape, seeds, steps).to(cond.tokens.device)
    run = decode(denoiser, noise[0], steps, cond, uncond, Guidance(config.guidance, steps), fresh=noise)
    return finish(denoiser, run, "generate", len(steps), report)


@dataclass(frozen=True)
class Leg:
    """The way from one prompt to the next: embeddings of both ends, and their noise (see level_noise).

    start: the clean latents that every frame is drawn from, noised to the level of steps.alphas[0];
    None: pure noise. inverted: in a chain, the last picture taken back to that level by DDIM inversion under
    the first prompt, in place of noise.
    """

    embeds: tuple[PromptEmbeds, PromptEmbeds]
    uncond: PromptEmbeds
    noise: Float[Tensor, "n 2 c h w"]
    start: Latents | None
    steps: Steps
    guidance: GuidanceConfig
    inverted: Latents | None = None

    def render(self, denoiser: Denoiser, weights: list[float], report: Report = silent) -> list[Pixels]:
        """The frames at these weights, drawn in one batch; each (1 3 H W)."""
        fresh = torch.stack([slerp(ends[:1], ends[1:], weights) for ends in self.noise])
        latents, uncond, share = fresh[0], self.uncond, None
        if self.start is not None:
            start = self.start.expand(len(weights), -1, -1, -1)
            latents = add_noise(start, latents, self.steps.level(0))
        if self.inverted is not None:  # as film.decode_between: weight 0 leads back to the last picture
            latents = self.inverted.expand(len(weights), -1, -1, -1)
            uncond = lerp(self.embeds[0], self.uncond, weights)
            share = append_dims(torch.tensor(weights), latents)
        guidance, cond = Guidance(self.guidance, self.steps), lerp(*self.embeds, weights)
        run = decode(denoiser, latents, self.steps, cond, uncond, guidance, share=share, fresh=fresh)
        return list(finish(denoiser, run, "frame", len(self.steps), report).split(1))


def interpolate(
    denoiser: Denoiser,
    config: InterpolateConfig,
    shape: Shape,
    seeds: list[int],
    *,
    init: Pixels | None = None,
    first: int = 0,
    have: Callable[[int], Pixels] | None = None,
    report: Report = silent,
) -> Iterator[tuple[int, Pixels]]:
    """The frames between prompts in order: (index, pixels (1 3 H W)).

    seeds: one per prompt. init: a picture that every frame is drawn from. To resume an interrupted run:
    first, the index of the first missing frame; have, which returns the earlier ones (a chain needs them).
    """
    prompts = [*config.prompts, *config.prompts[:1]] if config.loop else list(config.prompts)
    seeds = [*seeds, *seeds[:1]] if config.loop else seeds
    embeds, uncond = denoiser.embed(prompts), denoiser.embed([config.negative_prompt])
    starts, frames = [n * (config.frames - 1) for n in range(len(prompts) - 1)], count_frames(config)
    legs = [[p for p in range(min(s, 1), config.frames) if first <= s + p < frames] for s in starts]
    is_even = config.spacing == "even"  # then a leg is drawn as a whole
    expected = sum(config.frames if is_even else len(places) for places in legs if places)
    drawn = 0
    last: Pixels | None = None

    def render(leg: Leg, weights: list[float]) -> list[Pixels]:
        nonlocal drawn
        before, size = drawn, len(weights)
        drawn += size
        return leg.render(
            denoiser,
            weights,
            lambda stage, done, total: report(stage, before * total + size * done, expected * total),
        )

    for number, (start, places) in enumerate(zip(starts, legs, strict=True)):
        if places:
            ends = embeds.rows(number, number + 2), seeds[number : number + 2]
            leg = make_leg(denoiser, config, shape, *ends, uncond, init, last)
            for place, pixels in leg_frames(partial(render, leg), config, places):
                last = pixels
                yield start + place, pixels
        elif have is not None and config.chain is not None:
            last = have(start + config.frames - 1)
        last = None if last is None or config.chain is None else (last * 255).round() / 255  # as in a file


def make_leg(
    denoiser: Denoiser,
    config: InterpolateConfig,
    shape: Shape,
    embeds: PromptEmbeds,
    seeds: list[int],
    uncond: PromptEmbeds,
    init: Pixels | None,
    last: Pixels | None,
) -> Leg:
    """The way between two prompts, with their embeddings as a batch of two, and a seed for each.

    last: in a chain, the picture that the previous leg ended with; otherwise the leg starts from `init`, if
    there is one.
    """
    strength = 1.0 if init is None else config.strength
    share = strength if last is None else config.chain or 1
    how = config.step_solver, config.step_spacing, shape[1:]
    steps = make_steps(denoiser.schedule, config.step_count, share, *how)
    inverted = None
    if last is not None:
        *_, inverted = invert(denoiser, denoiser.encode(last), steps, embeds.row(0))
    return Leg(
        embeds=(embeds.row(0), embeds.row(1)),
        uncond=uncond,
        noise=level_noise(shape, seeds, steps).to(embeds.tokens.device),
        start=denoiser.encode(init) if init is not None and last is None else None,
        steps=steps,
        guidance=config.guidance,
        inverted=inverted,
    )


def count_frames(config: InterpolateConfig) -> int:
    """How many frames a run has: a frame shared by two legs, and the start of a loop, count once."""
    legs = len(config.prompts) - 1 + config.loop
    return legs * (config.frames - 1) + (not config.loop)


def leg_frames(
    render: Callable[[list[float]], list[Pixels]], config: InterpolateConfig, places: list[int]
) -> Iterator[tuple[int, Pixels]]:
    """The frames of one leg at these places, 0 to config.frames - 1: (place, pixels (1 3 H W))."""
    if config.spacing == "even":
        drawn = spread_evenly(render, config.frames, FRAMES_AT_ONCE, mean_gap)
        spread = sorted(drawn, key=lambda frame: frame[0])
        yield from ((place, spread[place][1]) for place in places)
        return
    weights = leg_weights(config.frames, config.ease)
    for i in range(0, len(places), FRAMES_AT_ONCE):
        part = places[i : i + FRAMES_AT_ONCE]
        yield from zip(part, render([weights[p] for p in part]), strict=True)
