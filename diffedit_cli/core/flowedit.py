"""An edit without an inversion: FlowEdit (Kulikov et al. 2024, arXiv 2412.08629), inside a mask."""

from collections.abc import Iterator
from dataclasses import replace

from ..settings import GuidanceConfig
from .ddim import begun
from .guidance import Guidance, GuidanceState
from .schedules import FRESH, add_noise, draw_noise
from .types import Denoiser, Heat, Latents, PromptEmbeds, Steps

SOURCE_SHARE = (
    0.26  # of the scale that the source is guided by: the paper's 3.5 of 13.5 (SD3), 1.5 of 5.5 (FLUX)
)


def source_guidance(config: GuidanceConfig) -> GuidanceConfig:
    """The guidance to use with the reference, given that for the query."""
    return replace(config, scale=max(1.0, SOURCE_SHARE * config.base_scale))


def flow_edit(
    denoiser: Denoiser,
    x0: Latents,
    steps: Steps,
    ref: PromptEmbeds,
    query: PromptEmbeds,
    uncond: PromptEmbeds,
    config: GuidanceConfig,
    mask: Heat,
    seeds: list[int],
    *,
    by_strength: bool = False,
) -> Iterator[Latents]:
    """The latents x0 on their way from `ref` to `query`: yields them after each step, always without noise.

    z' = z + m (sigma' - sigma) (v(x + z - x0, query) - v(x, ref)) with x = (1 - sigma) x0 + sigma n, and
    noise n of its own at each step (algorithm 1). Outside the mask z is x0, bit for bit. by_strength: see
    ddim.begun.
    """
    latents, states, levels = x0, (GuidanceState(), GuidanceState()), steps.levels
    guides = Guidance(source_guidance(config), steps), Guidance(config, steps)
    shape = x0.shape[1], x0.shape[2], x0.shape[3]
    for i in range(len(steps)):
        noised = add_noise(x0, draw_noise(shape, seeds, FRESH + i).to(x0), levels[i])
        own, before = guides[0].predict(denoiser, noised, i, ref, uncond, states[0])
        led, after = guides[1].predict(denoiser, noised + latents - x0, i, query, uncond, states[1])
        states = before, after
        redrawn = begun(mask, len(steps) - i, len(steps)) if by_strength else mask
        latents = latents + redrawn * (levels[i + 1].sigma - levels[i].sigma) * (led - own)
        yield latents
