"""The mask: where two texts make the model predict different noise (DiffEdit, arXiv 2210.11427, step 1), and
the noise that was added shows that the first of them describes the picture.

Heat and masks are (b 1 h w). Every statistic is taken per picture over its own pixels, so pictures in a
batch do not touch each other.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..settings import MaskConfig
from .schedules import add_noise, append_dims, draw_noise, levels_at, round_half_up, to_eps
from .types import Denoiser, Heat, Latents, Pixels, PromptEmbeds

MICRO_BATCH = 8  # samples in one forward, if a map of all pictures takes no more: more is hardly faster


def difference_maps(
    denoiser: Denoiser,
    x0: Latents,
    texts: Sequence[PromptEmbeds],
    config: MaskConfig,
    seeds: list[int],
) -> Iterator[Float[Tensor, "n b 3 h w"]]:
    """What each noise map shows, some maps at a time; texts: the reference, the query, and possibly others.

    Map k adds its own noise n to the source at strength[k % len(strength)] of the time. Its three channels,
    float32, are means over those of the latents, with sums over all texts t except the reference:
        gap    |eps(query) - eps(ref)|, the paper's
        gain   sum of (n - eps(t))^2 - (n - eps(ref))^2: how much better the reference predicts the noise
        reach  sum of (eps(t) - eps(ref))^2: what gain is on average, where the reference is right
    There is no guidance here: with the same negative prompt on both sides its terms cancel. Each map costs as
    many forward passes per picture as there are texts.
    """
    batch, channels, rows, columns = x0.shape
    per_forward = max(1, MICRO_BATCH // (len(texts) * batch))
    for start in range(0, config.samples, per_forward):
        maps = range(start, min(start + per_forward, config.samples))
        shares = [config.strength[k % len(config.strength)] for k in maps for _ in range(batch)]
        noise = torch.cat([draw_noise((channels, rows, columns), seeds, 1 + k) for k in maps]).to(x0)
        timesteps, level = levels_at(denoiser.schedule, shares, noise)
        noised = add_noise(x0.repeat(len(maps), 1, 1, 1), noise, level)
        embeds = PromptEmbeds.cat([part.expand(batch).repeat(len(maps)) for part in texts])
        predicted = denoiser.predict(
            noised.repeat(len(texts), 1, 1, 1), timesteps.repeat(len(texts)), embeds
        ).chunk(len(texts))
        eps = [to_eps(noised, one, level, denoiser.schedule.target).float() for one in predicted]
        ref, others, noise = eps[0], torch.stack(eps[1:]), noise.float()
        gap = (others[0] - ref).abs()
        gain = ((noise - others) ** 2 - (noise - ref) ** 2).sum(0)
        reach = ((others - ref) ** 2).sum(0)
        shown = torch.stack([part.mean(1) for part in (gap, gain, reach)], 1)
        yield shown.unflatten(0, (len(maps), batch))


def weigh(gap: Heat, gain: Heat, reach: Heat) -> Heat:
    """The gap times a weight in [0, 1]: how well the reference fits there (see difference_maps).

    Two texts differ where the object is, and also at other objects that neither of them names. There gain /
    reach, whose mean is 1 on what the reference names, is about 0, and below 0 on what another text predicts
    better. The weight is (1 + gain / reach) / 2, over the cell and its neighbours. If the model knows a
    picture so poorly that the ratio over the whole picture is negative, that is subtracted first. The text
    that predicts the noise best as a classifier: Li et al. 2023, arXiv 2303.16203.
    """
    radius = max(1, round_half_up(min(gap.shape[-2:]) / 32))
    tiny = torch.finfo(torch.float32).tiny
    whole = gain.sum((1, 2, 3), keepdim=True) / reach.sum((1, 2, 3), keepdim=True).clamp(min=tiny)
    share = box_mean(gain, radius) / box_mean(reach, radius).clamp(min=tiny)
    return gap * ((1 + share - whole.clamp(max=0)) / 2).clamp(0, 1)


def normalise(heat: Heat, clip: float) -> Heat:
    """Heat scaled to [0, 1] per picture: its minimum becomes 0, its `clip` quantile and all above it 1.

    The paper removes extreme values and scales to [0, 1], but does not say how. A map without differences
    becomes all 0.
    """
    values = heat.flatten(1)
    low = append_dims(values.amin(1), heat)
    high = append_dims(values.float().quantile(clip, dim=1), heat)
    high = torch.where(high > low, high, append_dims(values.amax(1), heat))
    span = high - low
    return torch.where(span > 0, ((heat - low) / torch.where(span > 0, span, 1)).clamp(0, 1), 0)


def refine(heat: Heat, pixels: Pixels, radius: int, eps: float = 2e-4) -> Heat:
    """Heat whose outline follows the edges of the picture: the guided filter with the picture as its guide.

    In every window of (2 radius + 1)^2 cells heat is fitted as a linear function a . rgb + b of the picture
    at the heat's size, with `eps` (in units of its variance) to prevent steep fits. Each cell takes the mean
    of the fits of all windows that contain it. He, Sun and Tang 2013, "Guided image filtering", IEEE TPAMI
    35(6), equations 19 to 21. The means lower the peak, so heat is scaled until the hottest place is 1 again;
    what falls below 0 is 0. Radius 0 leaves heat as it is.
    """
    if radius == 0:
        return heat
    dtype = torch.promote_types(heat.dtype, torch.float32)  # variances of near-flat places need the digits
    guide, rough = F.interpolate(pixels, heat.shape[-2:], mode="area").to(dtype), heat.to(dtype)
    mean_guide, mean_heat = box_mean(guide, radius), box_mean(rough, radius)
    covariance = box_mean(guide * rough, radius) - mean_guide * mean_heat
    squares = box_mean((guide[:, :, None] * guide[:, None]).flatten(1, 2), radius).unflatten(1, (3, 3))
    variance = (squares - mean_guide[:, :, None] * mean_guide[:, None]).movedim((1, 2), (-2, -1))
    ridge = eps * torch.eye(3, dtype=guide.dtype, device=guide.device)
    a = torch.linalg.solve(variance + ridge, covariance.movedim(1, -1)).movedim(-1, 1)
    b = mean_heat - (a * mean_guide).sum(1, keepdim=True)
    fitted = (box_mean(a, radius) * guide).sum(1, keepdim=True) + box_mean(b, radius)
    fitted = fitted.clamp(min=0).to(heat)
    peak = fitted.amax((1, 2, 3), keepdim=True)
    return fitted / torch.where(peak > 0, peak, 1)


def box_mean(x: Float[Tensor, "b c h w"], radius: int) -> Float[Tensor, "b c h w"]:
    """The mean over the square window of 2 radius + 1 cells around each cell, cut off at the border."""
    size = 2 * radius + 1
    rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius), count_include_pad=False)


def grow(mask: Heat, cells: int) -> Heat:
    """The mask grown by `cells` on each side, diagonals too; shrunk if negative, but not from the border."""
    size = 2 * abs(cells) + 1
    pooled = F.max_pool2d(mask if cells > 0 else -mask, size, stride=1, padding=abs(cells))
    return pooled if cells > 0 else -pooled


def widen(mask: Heat, room: float) -> Heat:
    """Each picture's mask grown by `room` times the square root of its area: room for another shape.

    A rooster does not fit into the outline of a duck: drawn there, it loses its comb, and the duck's edge
    stays. room: 0 or more.
    """
    cells = [round_half_up(room * float(area)) for area in mask.sum((1, 2, 3)).sqrt()]
    return torch.cat([grow(row, count) for row, count in zip(mask.split(1), cells, strict=True)])


def flood(values: Heat, within: Heat) -> Heat:
    """Values spread across shared sides in `within` (1, else 0), the largest first, until nothing changes."""
    while True:
        spread = torch.maximum(
            F.max_pool2d(values, (3, 1), stride=1, padding=(1, 0)),
            F.max_pool2d(values, (1, 3), stride=1, padding=(0, 1)),
        )
        spread = spread * within
        if torch.equal(spread, values):
            return values
        values = spread


def fill_holes(mask: Heat) -> Heat:
    """A binary mask with every hole filled that is not connected, across shared sides, to the border."""
    frame = F.pad(torch.zeros_like(mask), (1, 1, 1, 1), value=1.0)
    outside = flood(frame, 1 - F.pad(mask, (1, 1, 1, 1)))
    return 1 - outside[:, :, 1:-1, 1:-1]


def number_pieces(mask: Heat) -> Heat:
    """Each cell of a binary mask with the number of its piece, from 1 on, in float32; 0 where it is black.

    Cells that share a side are one piece: each starts with a number of its own, and takes the largest of its
    piece.
    """
    cells = mask[0].numel()
    number = torch.arange(1, cells + 1, device=mask.device, dtype=torch.float32).view(mask[:1].shape) * mask
    return flood(number, mask.to(number))


def spread(number: Heat, within: Heat) -> Heat:
    """Numbers grown into the cells of `within` (1, else 0) from cell to cell, until they meet."""
    while True:
        grown = torch.where(number > 0, number, grow(number, 1) * within)
        if torch.equal(grown, number):
            return number
        number = grown


def drop_specks(mask: Heat, heat: Heat, share: float = 0.05) -> Heat:
    """A binary mask without the pieces that hold less than `share` of the heat of the hottest piece."""
    cells, number = mask[0].numel(), number_pieces(mask)
    piece = number.long().flatten(1)
    weights = (heat * mask).to(number).flatten(1)
    weight = torch.zeros(len(mask), cells + 1, dtype=number.dtype, device=mask.device)
    weight.scatter_add_(1, piece, weights)
    keep = weight.gather(1, piece) >= share * weight.amax(1, keepdim=True)
    return mask * keep.view(mask.shape)


def hottest(heat: Heat) -> Heat:
    """Where a small object is most likely, as 0 and 1: the hottest places, without warm surroundings."""
    return drop_specks((heat >= 0.8).to(heat), heat, 0.3)


def binarise(heat: Heat, config: MaskConfig) -> Heat:
    """Heat in [0, 1] as a mask of 0 and 1: threshold, specks, holes, growth, inversion."""
    mask = (heat >= config.threshold).to(heat)
    mask = drop_specks(mask * (heat > 0), heat)
    if config.fill_holes:
        mask = fill_holes(mask)
    if config.grow:
        mask = grow(mask, config.grow)
    return 1 - mask if config.invert else mask


def combine(mask: Heat, add: Heat | None = None, subtract: Heat | None = None) -> Heat:
    """The mask with a user's areas added, then others subtracted; all in [0, 1]."""
    if add is not None:
        mask = torch.maximum(mask, add)
    return mask if subtract is None else mask * (1 - subtract)


def feather(mask: Heat, width: float) -> Heat:
    """A soft inner edge: 0 on the outline, 1 from `width` cells inside it, never more than the mask.

    Twice a box blur, less one: linear across a straight edge. The border of the picture is no edge.
    """
    return torch.minimum((2 * box_mean(mask, round_half_up(width)) - 1).clamp(0, 1), mask)


def enlarge(mask: Heat, factor: int) -> Float[Tensor, "b 1 {factor}*h {factor}*w"]:
    """A latent mask at pixel size (b 1 factor*h factor*w), interpolated linearly, without stair steps."""
    return F.interpolate(mask, scale_factor=float(factor), mode="bilinear", align_corners=False)
