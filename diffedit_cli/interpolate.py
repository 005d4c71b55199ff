"""Between two prompts: interpolation of embeddings and of noise, easing, and where the frames lie."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .settings import Easing
from .types import Latents, Pixels, PromptEmbeds

Noise = Float[Tensor, "1 c h w"]
PARALLEL = 0.9995  # |cosine| above which two noises are one line, and slerp would divide by nearly 0


def lerp(a: PromptEmbeds, b: PromptEmbeds, weights: Sequence[float]) -> PromptEmbeds:
    """(1 - w) a + w b of two prompts, one row for each weight; exact at 0 and 1."""
    w = a.tokens.new_tensor(list(weights))
    tokens = torch.lerp(a.tokens, b.tokens, w[:, None, None])
    if a.pooled is None or b.pooled is None:
        return PromptEmbeds(tokens)
    return PromptEmbeds(tokens, torch.lerp(a.pooled, b.pooled, w[:, None]))


def slerp(a: Noise, b: Noise, weights: Sequence[float]) -> Latents:
    """Spherical interpolation of two noises (1 c h w), one row for each weight (Shoemake 1985).

    sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, theta the angle between a and b, so the
    length hardly changes, as lerp would let it. lerp where a and b are nearly parallel; ValueError where
    they are opposite: every way round is as good as the other.
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
    """A weight in [0, 1] bent so that the movement starts (in), ends (out) or does both (smooth) at rest."""
    return {
        "linear": weight,
        "smooth": weight * weight * (3 - 2 * weight),
        "in": weight * weight,
        "out": weight * (2 - weight),
    }[kind]


def leg_weights(frames: int, kind: Easing) -> list[float]:
    """The weights of one leg from 0 to 1, both ends included; frames >= 2."""
    return [ease(kind, i / (frames - 1)) for i in range(frames)]


def spread_evenly(
    render: Callable[[list[float]], list[Pixels]], frames: int, at_once: int
) -> list[tuple[float, Pixels]]:
    """`frames` rendered weights from 0 to 1, chosen so that neighbours look about equally different.

    The largest visible gap between neighbours (mean absolute difference of the pixels) is halved until
    there are enough; up to `at_once` gaps in one call of `render`. Every rendered frame is kept.
    """
    found = list(zip([0.0, 1.0], render([0.0, 1.0]), strict=True))
    while len(found) < frames:
        gaps = [(float((b[1] - a[1]).abs().mean()), (a[0] + b[0]) / 2) for a, b in pairwise(found)]
        widest = [middle for _, middle in sorted(gaps, reverse=True)[: min(at_once, frames - len(found))]]
        found += zip(widest, render(widest), strict=True)
        found.sort(key=lambda pair: pair[0])
    return found
