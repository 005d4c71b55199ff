"""Restores what an edit did not mean to change: fine detail and tone inside the mask.

Inside the mask the pixels come from the VAE: softer than the source, and a little off in tone, even where
nothing changed. The source's reconstruction, decoded from its own latents, has the same losses, so its
difference from the source shows what was lost.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .mask import enlarge
from .types import Heat, Pixels

# The mean difference in colour around which detail fades out. Where the old object was, a larger one would
# let its outline show; the room around it holds background, and more of that comes back.
KEPT = 0.08
KEPT_IN_ROOM = 0.2
LEAST_SIDE = 4  # pixels of the coarsest level of a membrane
SWEEPS = 16  # of a membrane on each level


@dataclass(frozen=True)
class Detail:
    """What is restored, on the working canvas: the edit becomes edit + tone + keep * (source - base).

    base: the source's reconstruction. keep: in [0, 1], how much of the source's detail. tone: what is added
    to the edit's colours.
    """

    base: Float[Tensor, "b 3 H W"]
    keep: Float[Tensor, "b 1 H W"]
    tone: Float[Tensor, "b 3 H W"]


def kept_at(found: Heat, area: Heat, factor: int) -> Float[Tensor, "b 1 H W"]:
    """KEPT_IN_ROOM in the room of a mask, that is, in the part of the area (b 1 h w) outside what was found;
    KEPT elsewhere.

    The rim of what was found, where the old object's outline is, does not count as room.
    """
    is_room = (enlarge(area, factor) > 0) & (enlarge(found, factor) == 0)
    return torch.where(is_room, KEPT_IN_ROOM, KEPT)


def unchanged(
    edited: Pixels, base: Pixels, factor: int, kept: float | Float[Tensor, "b 1 H W"]
) -> Float[Tensor, "b 1 H W"]:
    """Where an edit still looks like the source's reconstruction `base`: exp(-(gap / kept)^2), where gap is
    the mean difference over about one latent cell of `factor` pixels."""
    side = factor // 2 * 2 + 1
    gap = (edited - base).abs().mean(1, keepdim=True)
    gap = F.avg_pool2d(gap, side, stride=1, padding=side // 2, count_include_pad=False)
    return torch.exp(-((gap / kept) ** 2))


def membrane(values: Float[Tensor, "b c H W"], known: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b c H W"]:
    """The values where known is 1, and elsewhere the smooth surface that they span (Laplace's equation).

    Solved from coarse to fine by repeated means over 3x3 pixels. Without any known value the result is 0.
    """
    height, width = values.shape[-2:]
    if min(height, width) <= LEAST_SIDE:
        filled = (values * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        surface = filled.expand_as(values)
    else:
        weight = F.avg_pool2d(known, 2, ceil_mode=True)
        small = F.avg_pool2d(values * known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
        coarse = membrane(small, (weight > 0).to(known))
        surface = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    surface = torch.where(known > 0, values, surface)
    for _ in range(SWEEPS):
        mean = F.avg_pool2d(F.pad(surface, (1, 1, 1, 1), "replicate"), 3, stride=1)
        surface = torch.where(known > 0, values, mean)
    return surface


def recover(
    edited: Pixels, source: Pixels, base: Pixels, mask: Heat, kept: Float[Tensor, "b 1 H W"], factor: int
) -> Detail:
    """What an edit lost unintentionally inside the mask (b 1 h w) that was redrawn.

    edited, source, base: the edit, the picture and its reconstruction, (b 3 H W) in [0, 1]. kept: see
    kept_at. The detail is
    source - base where the edit is as good as unchanged. What is still off around the area is carried into
    it as a membrane (Perez et al. 2003, "Poisson image editing", equation 2 with a guide of zero), and counts
    where the edit is unchanged.
    """
    keep = unchanged(edited, base, factor, kept)
    rest = source - (edited + keep * (source - base))
    outside = (enlarge(mask, factor) == 0).to(keep)
    return Detail(base, keep, keep * membrane(rest, outside))
