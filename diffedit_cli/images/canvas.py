"""The working canvas: a picture becomes what the network sees, and the edit comes back into the picture.

A `Fit` says how the picture lies in the canvas. `to_pixels` takes it there, `paste` brings the edit back, and
outside the mask the original pixels stay as they are, bit for bit.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from ..core.ddim import require_finite
from .colour import to_srgb
from .pixels import Box
from .read import Picture

MAX_STRETCH = 4  # the long side of the working picture is at most this many times `side`
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Fit:
    """How a picture, or a region of it, lies in the working canvas. All are pixels.

    `size` is the picture's own (width, height); `region` is the part that is worked on, left, top, right,
    bottom; `content` is the size that the region is scaled to; `canvas` is the content padded to a multiple;
    `offset` is where the content begins in the canvas, (x, y).
    """

    size: tuple[int, int]
    region: Box
    content: tuple[int, int]
    canvas: tuple[int, int]
    offset: tuple[int, int]

    @property
    def is_part(self) -> bool:
        """Whether the region is not the whole picture."""
        return self.region != (0, 0, *self.size)

    @property
    def scale(self) -> float:
        """Pixels of the canvas for each pixel of the picture, along a side."""
        left, top, right, bottom = self.region
        return max(self.content) / max(right - left, bottom - top)

    @property
    def box(self) -> Box:
        """The content in the canvas: left, top, right, bottom."""
        (x, y), (width, height) = self.offset, self.content
        return x, y, x + width, y + height


def fit(size: tuple[int, int], side: int, multiple: int, region: Box | None = None) -> Fit:
    """Lay a picture of any size, or a region of it, in a canvas of about side * side pixels.

    It is scaled up or down by one factor, never distorted, then padded on all sides to multiples of
    `multiple`. The long side is at most MAX_STRETCH * side: beyond 16:1 the picture gets less area. No side
    is less than one pixel.
    """
    left, top, right, bottom = region = region or (0, 0, *size)
    width, height = right - left, bottom - top
    scale = min(side / (width * height) ** 0.5, MAX_STRETCH * side / max(width, height))
    content = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = -(-content[0] // multiple) * multiple, -(-content[1] // multiple) * multiple
    offset = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
    return Fit(size, region, content, canvas, offset)


def to_pixels(picture: Picture, fit: Fit) -> Tensor:
    """What the network sees: float32 (1 3 H W) in [0, 1], sRGB, at the canvas' size.

    Transparent areas are shown over grey, so hidden colour does not leak. The padding repeats the edge.
    """
    rgb, region = picture.rgb, fit.region
    if picture.alpha is not None and picture.alpha.getextrema() != (255, 255):
        alpha = picture.alpha.crop(region)
        region = 0, 0, *alpha.size
        rgb = Image.new("RGB", alpha.size, GREY)
        rgb.paste(picture.rgb if not fit.is_part else picture.rgb.crop(fit.region), mask=alpha)
    small = to_srgb(rgb.resize(fit.content, Image.Resampling.LANCZOS, region), picture.icc)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
    left, top, right, bottom = fit.box
    return functional.pad(pixels, (left, fit.canvas[0] - right, top, fit.canvas[1] - bottom), "replicate")


def mask_to_cells(mask: Image.Image, fit: Fit, factor: int) -> Tensor:
    """A mode L mask at the picture's size as one value per cell: float32 (1 1 H/factor W/factor) in [0, 1].

    Each cell is the maximum over all pixels of the fit's region that it touches, so that no part of the mask
    is left unedited. Cells that contain only padding are 0.
    """
    columns, rows = (_spans(fit, axis, factor) for axis in (0, 1))
    cells = np.zeros((len(rows), len(columns)), np.uint8)
    for i, (top, bottom) in enumerate(rows):
        if top < bottom:
            line = np.asarray(mask.crop((0, top, mask.width, bottom))).max(axis=0)
            cells[i] = [line[left:right].max(initial=0) for left, right in columns]
    return torch.from_numpy(cells)[None, None].float() / 255


def _spans(fit: Fit, axis: int, factor: int) -> list[tuple[int, int]]:
    """The first pixel, and the one after the last, under each cell of one axis; integers, so exact."""
    start, end, content, offset = fit.region[axis], fit.region[axis + 2], fit.content[axis], fit.offset[axis]
    edges = [cell - offset for cell in range(0, fit.canvas[axis] + 1, factor)]
    size = end - start
    return [
        (start + max(0, first * size // content), max(start, min(end, start - (-last * size // content))))
        for first, last in itertools.pairwise(edges)
    ]


def mask_to_full(mask: Tensor, fit: Fit) -> Image.Image:
    """A soft mask (1 1 H W) in [0, 1] on the canvas as mode L at the picture's own size, bilinear.

    Black outside the fit's region.
    """
    require_finite(mask, "the mask")
    values = mask.detach().float().cpu()[0, 0].clamp(0, 1).mul(255).round().byte()
    left, top, right, bottom = fit.region
    size = right - left, bottom - top
    part = Image.fromarray(values.numpy()).crop(fit.box).resize(size, Image.Resampling.BILINEAR)
    if not fit.is_part:
        return part
    whole = Image.new("L", fit.size)
    whole.paste(part, (left, top))
    return whole


def image_to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture as float32 (1 3 H W) in [0, 1], scaled to fill `size` (w, h) and cropped."""
    values = np.array(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
    return torch.from_numpy(values).permute(2, 0, 1)[None].float() / 255


def pixels_to_image(pixels: Tensor) -> Image.Image:
    """(1 3 H W) or (3 H W) in [0, 1] as RGB, rounded to the nearest level; values outside are clipped.

    Raises NumericError at NaN or infinity: those would become a black picture.
    """
    require_finite(pixels, "the picture")
    values = pixels[0] if pixels.ndim == 4 else pixels
    values = values.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
