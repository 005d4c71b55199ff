"""The separate pieces of a mask, so that each can be edited on its own."""

import torch
from PIL import Image, ImageChops

from ..core.mask import number_pieces, spread
from ..errors import DiffeditError
from . import canvas

MOST = 16  # pieces
SIDE = 256  # a mask is looked at in about this many cells squared: pieces that share a cell are one


def pieces(found: Image.Image, area: Image.Image | None = None) -> list[Image.Image]:
    """A mask for each separate piece of a mask, the largest piece first; mode L at the picture's size.

    area: the same mask with room around it, which is divided too. Where the rooms of two pieces meet, they
    are separated; parts of the area that touch no piece are in no mask. DiffeditError: no piece, or too many.
    """
    area = area or found
    view = canvas.fit(area.size, SIDE, 1)
    core, around = ((canvas.mask_to_cells(mask, view, 1) > 0).float() for mask in (found, area))
    core = core * around
    numbers = number_pieces(core)
    reached = spread(numbers, around)
    of_pieces, sizes = numbers[core > 0].unique(return_counts=True)
    if not 0 < len(sizes) <= MOST:
        raise DiffeditError(
            f"The mask has {len(sizes)} separate pieces; --per-object takes 1 to {MOST}.",
            "Try another --mask-threshold, give a mask of your own, or leave --per-object out.",
        )
    largest_first = sorted(zip(sizes.tolist(), of_pieces.tolist(), strict=True), reverse=True)
    return [cut_out(area, reached == number) for _, number in largest_first]


def cut_out(area: Image.Image, cells: torch.Tensor) -> Image.Image:
    """The part of an area that lies in some cells (1 1 h w) of the whole picture."""
    values = Image.fromarray(cells[0, 0].numpy()).convert("L")
    return ImageChops.multiply(area, values.resize(area.size, Image.Resampling.NEAREST))
