"""Pastes the edit back into the picture: outside the mask the original pixels stay, bit for bit."""

import math

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..core.diffedit import Edited
from ..core.mask import enlarge
from ..core.mask import feather as soften
from ..core.types import Heat
from .canvas import Fit, mask_to_full, pixels_to_image
from .colour import to_srgb
from .pixels import strips
from .read import Picture


def paste(picture: Picture, edited: Tensor, mask: Image.Image, fit: Fit) -> Image.Image:
    """The picture with the edit in it, RGB in its own colour space and at its own size.

    `edited` is sRGB (1 3 H W) in [0, 1] on the canvas; `mask` is mode L at the picture's size. Where the mask
    is 0, and outside the fit's region, the pixels are the picture's, bit for bit; where it is 255 they are
    the edit's; in between, a mix. The edit is scaled (Lanczos) only within the mask's bounding box, strip by
    strip. NumericError at NaN.
    """
    content = to_srgb(pixels_to_image(edited).crop(fit.box), picture.icc, back=True)
    result = picture.rgb.copy()
    x, y, end, foot = fit.region
    if (bounds := mask.crop(fit.region).getbbox()) is None:
        return result
    left, top, right, bottom = bounds[0] + x, bounds[1] + y, bounds[2] + x, bounds[3] + y
    lanczos = Image.Resampling.LANCZOS
    across, down = content.width / (end - x), content.height / (foot - y)
    # Across first, once; then down, by strips. Left to itself Pillow chooses the order by the size of each
    # strip, and the strips would not match at their seams.
    span = (left - x) * across, 0, min((right - x) * across, content.width), content.height
    wide = content.resize((right - left, content.height), lanczos, span)
    for box in strips(fit.size, (left, top, right, bottom)):
        _, first, _, last = box
        rows = 0, (first - y) * down, wide.width, min((last - y) * down, wide.height)
        result.paste(wide.resize((wide.width, last - first), lanczos, rows), (left, first), mask.crop(box))
    return result


def paste_edit(picture: Picture, edit: Edited, row: int, mask: Image.Image, fit: Fit) -> Image.Image:
    """One row of an edit pasted into its picture, with detail and tone restored where nothing changed."""
    one, detail = slice(row, row + 1), edit.detail
    if detail is None:
        return paste(picture, edit.pixels[one].cpu(), mask, fit)
    toned = (edit.pixels[one] + detail.tone[one]).clamp(0, 1)
    image = paste(picture, toned.cpu(), mask, fit)
    softened = paste(picture, detail.base[one].cpu(), mask, fit)
    keep = mask_to_full(detail.keep[one].cpu(), fit)
    return add_difference(image, picture.rgb, softened, keep)


def add_difference(
    image: Image.Image, before: Image.Image, after: Image.Image, share: Image.Image
) -> Image.Image:
    """image + share * (before - after) of RGB pictures of one size; `share` has mode L, 255 counts as 1."""
    result = image.copy()
    for box in strips(image.size):
        base, plus, minus = (np.asarray(part.crop(box), np.float32) for part in (image, before, after))
        weight = np.asarray(share.crop(box), np.float32)[..., None] / 255
        values = np.rint(base + weight * (plus - minus)).clip(0, 255).astype(np.uint8)
        result.paste(Image.fromarray(values), box[:2])
    return result


def changed_outside(before: Image.Image, after: Image.Image, mask: Image.Image) -> int:
    """How many pixels differ where the mask is 0. All three have one size, the pictures one mode."""
    if not before.size == after.size == mask.size or before.mode != after.mode:
        raise ValueError("The pictures and the mask must have one size, and the pictures one mode.")
    count = 0
    for box in strips(before.size):
        differs = np.asarray(before.crop(box)) != np.asarray(after.crop(box))
        if differs.ndim == 3:
            differs = differs.any(axis=2)
        count += int((differs & (np.asarray(mask.crop(box)) == 0)).sum())
    return count


def full_mask(found: Heat, feather: float, fit: Fit, factor: int) -> Image.Image:
    """A latent mask (1 1 h w) as the soft mask of the paste, mode L at the picture's own size.

    feather: width of the soft inner edge, in pixels of the canvas. factor: pixels to a latent cell.
    """
    soft = enlarge(found, factor)
    if not fit.is_part:
        return mask_to_full(soften(soft, feather).cpu(), fit)
    (left, top, right, bottom), (width, height) = fit.region, fit.size
    reach = 2 * math.ceil(feather)
    room = [reach * side for side in (left > 0, right < width, top > 0, bottom < height)]
    x, y, end, foot = fit.box
    # Where a part ends inside the picture, a mask that touches its border is softened there too.
    inside = functional.pad(soft[..., y:foot, x:end], room)
    softened = soften(inside, feather)
    soft[..., y:foot, x:end] = softened[..., room[2] : room[2] + foot - y, room[0] : room[0] + end - x]
    return mask_to_full(soft.cpu(), fit)


def full_heat(heat: Heat, fit: Fit, factor: int) -> Image.Image:
    """Heat (1 1 h w) as mode L at the picture's own size; 255 is hottest."""
    return mask_to_full(enlarge(heat, factor).cpu(), fit)
