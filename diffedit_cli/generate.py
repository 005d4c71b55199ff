"""Text to image, and the frames between prompts. Pure torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .ddim import decode, finish
from .guidance import Guidance
from .interpolate import leg_weights, lerp, slerp, spread_evenly
from .schedules import add_noise, draw_noise, make_steps
from .settings import GenerateConfig, GuidanceConfig, InterpolateConfig
from .types import Denoiser, Latents, Pixels, PromptEmbeds, Report, Steps, silent

FRAMES_AT_ONCE = 4  # in one batch: more is hardly faster, and memory grows with it
Shape = tuple[int, int, int]  # c h w of the latents


def generate(
    denoiser: Denoiser, config: GenerateConfig, shape: Shape, seeds: list[int], report: Report = silent
) -> Pixels:
    """Pictures (b 3 H W) of one prompt, from pure noise; one for each seed."""
    cond, uncond = (denoiser.embed([text]) for text in (config.prompt, config.negative_prompt))
    steps = make_steps(denoiser.schedule, config.steps)
    noise = draw_noise(shape, seeds).to(cond.tokens)
    run = decode(denoiser, noise, steps, cond, uncond, Guidance(config.guidance, steps))
    return finish(denoiser, run, "generate", len(steps), report)


@dataclass(frozen=True)
class Leg:
    """The way from one prompt to the next: embeddings and noise (1 c h w) of both ends.

    start: the clean latents that every frame is drawn from, noised to the level of steps.alphas[0];
    None: pure noise.
    """

    embeds: tuple[PromptEmbeds, PromptEmbeds]
    uncond: PromptEmbeds
    noise: tuple[Latents, Latents]
    start: Latents | None
    steps: Steps
    guidance: GuidanceConfig

    def render(self, denoiser: Denoiser, weights: list[float], report: Report = silent) -> list[Pixels]:
        """The frames at these weights, drawn in one batch; each (1 3 H W)."""
        latents = slerp(*self.noise, weights)
        if self.start is not None:
            latents = add_noise(self.start, latents, float(self.steps.alphas[0]))
        guidance = Guidance(self.guidance, self.steps)
        run = decode(denoiser, latents, self.steps, lerp(*self.embeds, weights), self.uncond, guidance)
        return list(finish(denoiser, run, "frame", len(self.steps), report).split(1))


def interpolate(
    denoiser: Denoiser,
    config: InterpolateConfig,
    shape: Shape,
    seeds: list[int],
    *,
    init: Pixels | None = None,
    have: Callable[[int], Pixels | None] = lambda index: None,
    report: Report = silent,
) -> Iterator[tuple[int, Pixels]]:
    """The frames between prompts in order: (index, pixels (1 3 H W)).

    seeds: one a prompt. init: a picture that every frame is drawn from. have: a frame that is there
    already, so that an interrupted run goes on; it is not drawn again and not yielded.
    """
    prompts = [*config.prompts, *config.prompts[:1]] if config.loop else list(config.prompts)
    seeds = [*seeds, *seeds[:1]] if config.loop else seeds
    embeds, uncond = denoiser.embed(prompts), denoiser.embed([config.negative_prompt])
    noise = draw_noise(shape, seeds).to(embeds.tokens)
    last = None
    for number in range(len(prompts) - 1):
        source, strength = (init, config.strength) if last is None else (last, config.chain or 1.0)
        leg = Leg(
            embeds=(embeds.row(number), embeds.row(number + 1)),
            uncond=uncond,
            noise=(noise[number : number + 1], noise[number + 1 : number + 2]),
            start=None if source is None else denoiser.encode(source),
            steps=make_steps(denoiser.schedule, config.steps, 1.0 if source is None else strength),
            guidance=config.guidance,
        )
        first = number * (config.frames - 1)
        shown = range(min(number, 1), config.frames - (config.loop and number == len(prompts) - 2))
        kept = {place: frame for place in shown if (frame := have(first + place)) is not None}
        for place, frame in leg_frames(denoiser, leg, config, [p for p in shown if p not in kept], report):
            kept[place] = frame
            yield first + place, frame
        if config.chain is not None:
            last = (kept[shown[-1]] * 255).round() / 255  # as a file would give it back


def leg_frames(
    denoiser: Denoiser, leg: Leg, config: InterpolateConfig, places: list[int], report: Report
) -> Iterator[tuple[int, Pixels]]:
    """The frames of one leg at these places, 0 to config.frames - 1: (place, pixels (1 3 H W))."""
    if config.spacing == "even" and places:
        spread = spread_evenly(lambda w: leg.render(denoiser, w, report), config.frames, FRAMES_AT_ONCE)
        yield from ((place, spread[place][1]) for place in places)
        return
    weights = leg_weights(config.frames, config.ease)
    for i in range(0, len(places), FRAMES_AT_ONCE):
        part = places[i : i + FRAMES_AT_ONCE]
        yield from zip(part, leg.render(denoiser, [weights[p] for p in part], report), strict=True)
