"""Small things in large pictures: the part of a picture that an edit works on, to see the thing large."""

from collections.abc import Callable

from PIL import Image

from . import canvas
from .canvas import Fit
from .files import Box

FIRST = 2.0  # the first look is at the whole picture, so many times larger than an edit sees it
ROOM = 2.0  # a part is so many times as long and as wide as what it is made round
SAME = 1.2  # a part shows a thing as large as before, if its scale has changed by no more than this factor
LOOKS = 4  # at parts, at most


def around(mask: Image.Image, least: int) -> Box:
    """The square round what a mode L mask covers, ROOM times its longer side, at least `least` pixels.

    Where the picture is too small for the square it is cut, and near the border it is shifted. An empty mask
    gives the whole picture.
    """
    if (bounds := mask.getbbox()) is None:
        return 0, 0, *mask.size
    left, top, right, bottom = bounds
    side = max(least, round(ROOM * max(right - left, bottom - top)))
    width, height = min(side, mask.width), min(side, mask.height)
    x = min(max(0, (left + right - width) // 2), mask.width - width)
    y = min(max(0, (top + bottom - height) // 2), mask.height - height)
    return x, y, x + width, y + height


def part_round(mask: Image.Image, side: int, multiple: int) -> Fit:
    """How the part round a mask, mode L at the picture's size, lies in its canvas.

    side, multiple: those of the canvas, as in `canvas.fit`. No part of a larger picture has fewer pixels than
    the canvas, so none is blown up.
    """
    return canvas.fit(mask.size, side, multiple, around(mask, side))


def close_in(
    whole: Fit,
    side: int,
    multiple: int,
    hottest: Callable[[Fit], Image.Image],
    look: Callable[[Fit], Image.Image],
) -> Fit:
    """Where to work on a thing that may be small: the part round it, or `whole`.

    First at the whole picture, large: what is hottest there is it, since round a small thing the whole
    neighbourhood is warm. Then at the part round that: there the mask tells how large the thing is, and
    the part is drawn round it anew, smaller or larger. hottest, look: the hottest places and the mask of a
    view, mode L at the picture's size.
    """
    view = canvas.fit(whole.size, round(side * min(FIRST, max(1.0, 1 / whole.scale))), multiple)
    here, mask = whole, hottest(view)
    for _ in range(LOOKS):
        part = part_round(mask, side, multiple)
        if 1 / SAME < part.scale / here.scale < SAME:
            break
        here = part
        if not here.is_part:
            break
        mask = look(here)
    return here
