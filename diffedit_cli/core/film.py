"""The film of an edit: the way from a picture to what it became. Pure torch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .ddim import decode, finish
from .detail import KEPT, kept_at, unchanged
from .diffedit import Edited, Plan
from .guidance import Guidance
from .interpolate import FRAMES_AT_ONCE, lerp, spread_evenly
from .mask import enlarge
from .schedules import append_dims
from .types import Denoiser, Heat, Latents, Pixels, Report, Trajectory, silent


@dataclass(frozen=True)
class MorphFrame:
    """A picture on the way to its edit. keep: how much (0 to 1) of the source's detail to restore."""

    pixels: Pixels
    keep: Heat


def morph(
    denoiser: Denoiser, pixels: Pixels, edit: Edited, frames: int, report: Report = silent
) -> Iterator[tuple[float, MorphFrame]]:
    """The way from one picture (1 3 H W) to its edit: (weight, frame) as they are drawn, in no particular
    order.

    Weight 0 is the picture itself and 1 the edit. Between them the noisiest latents are decoded with texts
    between those of the inversion and those of the edit, and with a share w of the guidance: at 0 that leads
    back to the picture. The weights are chosen by `spread_evenly`, from what is visible inside the mask. What
    the VAE loses of the picture is restored where nothing has changed yet.
    """
    plan = edit.plan
    factor = pixels.shape[-1] // plan.mask.shape[-1]
    seen, count = enlarge(plan.mask, factor), len(plan.steps)
    frames_drawn = 0

    def draw(weights: list[float]) -> Pixels:
        nonlocal frames_drawn
        before, size = frames_drawn * count, len(weights)
        frames_drawn += size
        run = decode_between(denoiser, plan, weights)
        total = (frames - 1) * count
        return finish(
            denoiser, run, "frame", count, lambda _, done, __: report("frame", before + size * done, total)
        )

    def render(weights: list[float]) -> list[MorphFrame]:
        if weights == [0.0, 1.0]:
            return [MorphFrame(pixels, torch.ones_like(seen)), last]
        fresh = draw(weights)
        if plan.config.keep_detail:
            kept = kept_at(plan.found, plan.area, factor).expand_as(fresh[:, :1])
            keep = unchanged(fresh, base.expand_as(fresh), factor, kept)
        else:  # the edit has no detail of the source, so it fades out on the way
            fade = append_dims(1 - torch.tensor(weights) ** 2, fresh)
            keep = fade * unchanged(fresh, base.expand_as(fresh), factor, KEPT)
        fresh = (fresh + keep * (pixels - base)).clamp(0, 1)
        return [MorphFrame(*pair) for pair in zip(fresh.split(1), keep.split(1), strict=True)]

    def gap(a: MorphFrame, b: MorphFrame) -> float:
        return float(((b.pixels - a.pixels).abs() * seen).sum() / seen.sum())

    last, base = finished(edit, pixels), draw([0.0])
    yield from spread_evenly(render, frames, FRAMES_AT_ONCE, gap)


def finished(edit: Edited, pixels: Pixels) -> MorphFrame:
    """The edit itself as a frame."""
    if edit.detail is None:
        return MorphFrame(edit.pixels, torch.zeros_like(pixels[:, :1]))
    keep = edit.detail.keep
    shown = edit.pixels + edit.detail.tone + keep * (pixels - edit.detail.base)
    return MorphFrame(shown.clamp(0, 1), keep)


def decode_between(denoiser: Denoiser, plan: Plan, weights: list[float]) -> Iterator[Latents]:
    """`decode` with texts between those of the inversion and those of the edit, one row per weight."""
    texts, count = plan.texts, len(weights)
    noisiest = plan.source.latents[0].expand(count, -1, -1, -1)
    return decode(
        denoiser,
        noisiest,
        plan.steps,
        lerp(texts.source, texts.query, weights),
        lerp(texts.source, texts.negative, weights),
        Guidance(plan.config.guidance, plan.steps, plan.config.reuse),
        plan.mask.expand(count, -1, -1, -1),
        Trajectory(plan.source.latents.expand(-1, count, -1, -1, -1)),
        share=append_dims(torch.tensor(weights), noisiest),
        by_strength=plan.by_strength,
    )


def in_order(frames: Iterator[tuple[float, MorphFrame]]) -> Iterator[tuple[float, MorphFrame]]:
    """Sorts frames by weight as they are drawn; after Ctrl-C yields the finished ones, then raises it
    again."""
    found: list[tuple[float, MorphFrame]] = []
    is_interrupted = False
    try:
        for frame in frames:
            found.append(frame)
    except KeyboardInterrupt:
        is_interrupted = True
    yield from sorted(found, key=lambda frame: frame[0])
    if is_interrupted:
        raise KeyboardInterrupt
