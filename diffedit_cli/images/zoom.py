"""Small objects in large pictures: the part of a picture that an edit works on, so that they appear large."""

from collections.abc import Callable

from PIL import Image

from . import canvas
from .canvas import Fit
from .pixels import Box

FIRST = 2.0  # the first look is at the whole picture, this many times larger than an edit sees it
ROOM = 2.0  # a part is this many times as long and as wide as what lies in it
STILL = 0.1  # a part is the same as before, if no edge has moved by more than this share of its longer side
LOOKS = 4  # at parts, at most


def around(mask: Image.Image, least: int) -> Box:
    """The square around what a mode L mask covers, ROOM times its longer side, at least `least` pixels.

    If the picture is too small for the square, the square is cropped, and lengthened if it has fewer than
    least^2 pixels; near the border it is shifted. An empty mask gives the whole picture.
    """
    if (bounds := mask.getbbox()) is None:
        return 0, 0, *mask.size
    left, top, right, bottom = bounds
    side = max(least, round(ROOM * max(right - left, bottom - top)))
    width, height = min(side, mask.width), min(side, mask.height)
    width = min(mask.width, max(width, -(-(least**2) // height)))
    height = min(mask.height, max(height, -(-(least**2) // width)))
    x = min(max(0, (left + right - width) // 2), mask.width - width)
    y = min(max(0, (top + bottom - height) // 2), mask.height - height)
    return x, y, x + width, y + height


def part_round(mask: Image.Image, side: int, multiple: int) -> Fit:
    """How the part around a mask (mode L at the picture's size) lies in its canvas.

    side, multiple: those of the canvas, as in `canvas.fit`. No part of a larger picture has fewer pixels than
    the canvas, so none is upscaled.
    """
    return canvas.fit(mask.size, side, multiple, around(mask, side))


def close_in(
    whole: Fit,
    side: int,
    multiple: int,
    hottest: Callable[[Fit], Image.Image],
    look: Callable[[Fit], Image.Image],
) -> Fit:
    """Where to edit an object that may be small: the part around it, or `whole`.

    The first search covers the whole picture at a large size and takes only the hottest places, since around
    a small object the whole neighbourhood is warm. The next ones cover the part around these: there the mask
    shows how large the object is, and a new part is chosen around it, smaller or larger. hottest, look: the
    hottest places and the mask of a view, mode L at the picture's size.
    """
    view = canvas.fit(whole.size, round(side * min(FIRST, max(1.0, 1 / whole.scale))), multiple)
    here, mask = whole, hottest(view)
    for looks_left in reversed(range(LOOKS + 1)):
        part = part_round(mask, side, multiple)
        if is_same(part.region, here.region):
            break
        here = part
        if not (here.is_part and looks_left):
            break
        mask = look(here)
    return here


def is_same(a: Box, b: Box) -> bool:
    """Whether a part hardly differs from the one before."""
    side = max(b[2] - b[0], b[3] - b[1])
    return all(abs(x - y) <= STILL * side for x, y in zip(a, b, strict=True))
