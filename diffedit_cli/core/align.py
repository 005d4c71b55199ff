"""Aligning two pictures of one scene: how the second maps onto the first, in geometry and colour, and what
differs then.

The geometry is a zoom and a shift along each axis, fitted by Gauss-Newton steps on a pyramid (Lucas and
Kanade 1981, as in Baker and Matthews 2004, "Lucas-Kanade 20 years on", IJCV 56(3)), with weights that leave
out what does not match: that is what was changed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .mask import box_mean, refine
from .types import Heat, Pixels

Placement = Float[Tensor, "4"]  # x' = (1 + a) x + c and y' = (1 + b) y + d, coordinates in [-1, 1]
Colours = Float[Tensor, "4 3"]  # rgb' = (r, g, b, 1) @ colours
Weights = Float[Tensor, "1 1 H W"]

LEVELS = 4  # of the pyramid; each halves the sides
LEAST_SIDE = 24  # pixels of the smallest level, at least
ROUNDS = 20  # Gauss-Newton steps on a level, at most
STILL = 0.01  # pixels: a step below it ends a level
FINE = 2 / 255  # noise and compression
TUKEY = 4.685  # residuals beyond this many deviations have no weight


def place(
    pixels: Float[Tensor, "1 c H W"], placement: Placement, height: int, width: int
) -> Float[Tensor, "1 c {height} {width}"]:
    """A picture resampled to height x width pixels under a placement (bicubic; its border repeats)."""
    a, b, c, d = placement.tolist()
    matrix = torch.tensor([[[1 + a, 0, c], [0, 1 + b, d]]], dtype=pixels.dtype, device=pixels.device)
    grid = F.affine_grid(matrix, [1, pixels.shape[1], height, width], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False)


def tukey(residuals: Tensor, least: float = 2 / 255) -> Tensor:
    """Tukey's biweight in [0, 1]: 1 for a residual of 0, 0 beyond TUKEY deviations.

    The deviation is 1.4826 times the median of the residuals' sizes, and never below `least`.
    """
    deviation = (1.4826 * residuals.abs().median()).clamp(min=least)
    return (1 - (residuals / (TUKEY * deviation)) ** 2).clamp(min=0) ** 2


def register(fixed: Pixels, moving: Pixels, start: Sequence[float] = (0, 0, 0, 0)) -> Placement:
    """The placement that maps `moving` (1 3 h w, any size) onto `fixed` (1 3 H W).

    Brightness may differ by a gain and an offset. Follows shifts of a few percent of the width from `start`.
    """
    placement = torch.tensor(start, dtype=torch.float64)
    one, other = (x.double().mean(1, keepdim=True) for x in (fixed, moving))
    for level in reversed(range(LEVELS)):
        size = fixed.shape[-2] >> level, fixed.shape[-1] >> level
        if min(size) >= LEAST_SIDE:
            small, moved = (F.interpolate(x, size, mode="area") for x in (one, other))
            placement = _refine(small, moved, placement)
    return placement


def _refine(fixed: Tensor, moving: Tensor, placement: Placement) -> Placement:
    """Gauss-Newton on one level; the unknowns are the placement, a gain and an offset."""
    height, width = fixed.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1 + 1 / height, 1 - 1 / height, height, dtype=fixed.dtype),
        torch.linspace(-1 + 1 / width, 1 - 1 / width, width, dtype=fixed.dtype),
        indexing="ij",
    )
    gain, offset = 1.0, 0.0
    pixel = torch.tensor([width, height, width, height]) / 2  # what a change of each unknown moves, in pixels
    for _ in range(ROUNDS):
        seen = place(moving, placement, height, width)
        gradient_y, gradient_x = torch.gradient(seen[0, 0])
        gradient_y, gradient_x = gradient_y * height / 2, gradient_x * width / 2
        columns = [gain * g for g in (x * gradient_x, y * gradient_y, gradient_x, gradient_y)]
        columns += [seen[0, 0], torch.ones_like(seen[0, 0])]
        jacobian = torch.stack([column.flatten() for column in columns], 1)
        residual = (fixed - gain * seen - offset).flatten()
        weight = tukey(residual)[:, None]
        step = torch.linalg.lstsq(
            jacobian.mT @ (weight * jacobian), jacobian.mT @ (weight[:, 0] * residual)[:, None]
        ).solution[:, 0]
        placement = placement + step[:4]
        gain, offset = gain + float(step[4]), offset + float(step[5])
        if float((step[:4] * pixel).abs().amax()) < STILL:
            break
    return placement


def fit_colours(fixed: Pixels, moving: Pixels, rounds: int = 8) -> Colours:
    """The linear map from `moving`'s colours to those of `fixed`, both (1 3 H W), by least squares over what
    matches (Tukey's weights)."""
    wanted = fixed.double()[0].flatten(1).mT
    known = F.pad(moving.double()[0].flatten(1).mT, (0, 1), value=1.0)
    colours = torch.eye(4, 3, dtype=torch.float64)
    for _ in range(rounds):
        gap = (wanted - known @ colours).abs().amax(1)
        weight = tukey(gap)[:, None]
        ridge = 1e-3 * weight.sum() * torch.eye(4, dtype=torch.float64)  # towards no change
        start = torch.eye(4, 3, dtype=torch.float64)
        colours = torch.linalg.solve(
            known.mT @ (weight * known) + ridge, known.mT @ (weight * wanted) + ridge @ start
        )
    return colours


def recolour(pixels: Pixels, colours: Colours) -> Pixels:
    """Pixels (1 3 H W) under a linear map of their colours, clipped to [0, 1]."""
    matrix = colours.to(pixels)
    return (torch.einsum("bchw,cd->bdhw", pixels, matrix[:3]) + matrix[3].view(1, 3, 1, 1)).clamp(0, 1)


def difference(fixed: Pixels, moving: Pixels, threshold: float) -> Heat:
    """How much two aligned pictures (1 3 h w) differ, (1 1 h w): 0.5 at `threshold`, 1 at twice that; the
    outline follows the edges of `fixed`.

    The difference is that of the channel that differs most, after a small blur, minus what most of the
    picture differs by anyway: three times its deviation (1.4826 times the median, and at least 3 levels of
    255).
    """
    gap = (box_mean(fixed, 1) - box_mean(moving, 1)).abs().amax(1, keepdim=True)
    noise = (1.4826 * gap.median()).clamp(min=3 / 255)
    heat = ((gap - 3 * noise) / (2 * threshold)).clamp(0, 1)
    return refine(heat, fixed, 4)


def likeness(fixed: Pixels, moving: Pixels, where: Heat) -> float:
    """How well the fine structure of two pictures (1 3 h w) agrees, -1 to 1, in the cells where `where` is 1.

    The correlation of what a blur removes; structure fainter than FINE counts as agreement.
    """
    one, other = (
        (gray - box_mean(gray, 4))[where > 0] for gray in (x.mean(1, keepdim=True) for x in (fixed, moving))
    )
    covariance, *variances = ((a * b).mean() + FINE**2 for a, b in ((one, other), (one, one), (other, other)))
    return float(covariance / (variances[0] * variances[1]).sqrt())
