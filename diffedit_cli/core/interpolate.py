"""Between two prompts: interpolation of embeddings and of noise, easing, and where the frames lie."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..settings import Easing
from .types import Latents, Pixels, PromptEmbeds

Noise = Float[Tensor, "1 c h w"]
FRAMES_AT_ONCE = 4  # in one batch: more is hardly faster, and memory grows with it
Frame = TypeVar("Frame")
PARALLEL = 0.9995  # |cosine| above which two noises are one line, and slerp would divide by nearly 0


def lerp(a: PromptEmbeds, b: PromptEmbeds, weights: Sequence[float]) -> PromptEmbeds:
    """(1 - w) a + w b of two prompts, one row for each weight; exact at 0 and 1."""
    if a.counts is not None:
        raise ValueError("texts of different lengths have nothing between them")
    w = a.tokens.new_tensor(list(weights))
    tokens = torch.lerp(a.tokens, b.tokens, w[:, None, None])
    pooled = None if a.pooled is None or b.pooled is None else torch.lerp(a.pooled, b.pooled, w[:, None])
    return PromptEmbeds(tokens, pooled, None if a.guidance is None else a.guidance.expand(len(w)))


def slerp(a: Noise, b: Noise, weights: Sequence[float]) -> Latents:
    """Spherical interpolation of two noises (1 c h w), one row for each weight (Shoemake 1985).

    sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, theta the angle between a and b, so the
    length hardly changes, unlike with lerp. Nearly parallel a and b are mixed by lerp; opposite ones give a
    ValueError, since there is no unique shortest way between them.
    """
    w = a.new_tensor(list(weights))[:, None, None, None]
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    if cosine < -PARALLEL:
        raise ValueError("two opposite noises have no shortest way between them")
    if cosine > PARALLEL:
        return torch.lerp(a, b, w)
    theta = torch.acos(cosine)
    return (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / torch.sin(theta)


def ease(kind: Easing, weight: float) -> float:
    """A weight in [0, 1], bent so that movement starts slowly (in), ends slowly (out), or both (smooth)."""
    return {
        "linear": weight,
        "smooth": weight * weight * (3 - 2 * weight),
        "in": weight * weight,
        "out": weight * (2 - weight),
    }[kind]


def leg_weights(frames: int, kind: Easing) -> list[float]:
    """The weights of one leg from 0 to 1, both ends included; frames >= 2."""
    return [ease(kind, i / (frames - 1)) for i in range(frames)]


def mean_gap(a: Pixels, b: Pixels) -> float:
    """How different two pictures look: the mean absolute difference of their pixels."""
    return float((b - a).abs().mean())


def spread_evenly(
    render: Callable[[list[float]], list[Frame]],
    frames: int,
    at_once: int,
    gap: Callable[[Frame, Frame], float],
) -> Iterator[tuple[float, Frame]]:
    """`frames` rendered weights from 0 to 1, chosen so that neighbours look about equally different.

    Yields (weight, frame) as they are drawn: both ends, then up to `at_once` in one call of `render`. These
    divide the widest gaps into equal parts, so that the widest part would be as small as possible if pictures
    changed evenly within a gap. Every rendered frame is kept.
    """
    found: list[tuple[float, Frame]] = []
    weights = [0.0, 1.0]
    while weights:
        fresh = list(zip(weights, render(weights), strict=True))
        yield from fresh
        found = sorted([*found, *fresh], key=lambda pair: pair[0])
        gaps = [gap(a[1], b[1]) for a, b in pairwise(found)]
        cuts = [(a[0], b[0]) for a, b in pairwise(found)]
        left = frames - len(found)
        parts = share_out(gaps, min(at_once, (left + 1) // 2))  # half, so that the last cuts know most
        weights = [a + (b - a) * k / n for (a, b), n in zip(cuts, parts, strict=True) for k in range(1, n)]


def share_out(gaps: Sequence[float], cuts: int) -> list[int]:
    """Into how many parts to divide each gap, with this many cuts, so that the widest part is smallest."""
    parts = [1] * len(gaps)
    for _ in range(cuts):
        widest = max(range(len(gaps)), key=lambda i: gaps[i] / parts[i])
        parts[widest] += 1
    return parts
