"""A user's masks: read, checked, and laid over a found one."""

import hashlib
from dataclasses import dataclass, fields, replace

import torch
from PIL import Image, ImageChops

from ..core.diffedit import Areas
from . import canvas
from .canvas import Fit
from .read import levels


@dataclass(frozen=True)
class Masks:
    """What a user says about where to edit. Each has mode L and the picture's size; white counts.

    use: edit here, without a search. add: areas to add to the mask. subtract: areas to keep as they are.
    """

    use: Image.Image | None = None
    add: Image.Image | None = None
    subtract: Image.Image | None = None

    @staticmethod
    def of(given: "Masks | Image.Image | None") -> "Masks":
        """A mask alone stands for `Masks(use=mask)`."""
        return given if isinstance(given, Masks) else Masks(given)

    def inverted(self) -> "Masks":
        """The same with everything that `use` does not touch to be edited."""
        return self if self.use is None else replace(self, use=complement(self.use))

    def mend(self, found: Image.Image) -> Image.Image:
        """A mask with the areas added, then taken away (`core.mask.combine` at the picture's size)."""
        if self.add is not None:
            found = ImageChops.lighter(found, self.add)
        if self.subtract is not None:
            found = ImageChops.multiply(found, ImageChops.invert(self.subtract))
        return found

    def cells(self, fit: Fit, factor: int, device: torch.device) -> Areas:
        """The same in the latent cells of a working canvas."""
        areas = self.use, self.add, self.subtract
        return Areas(*(area and canvas.mask_to_cells(area, fit, factor).to(device) for area in areas))

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the pixels of each mask given, under the name that a result stores it by."""
        names = {"use": "mask_sha256", "add": "mask_add_sha256", "subtract": "mask_subtract_sha256"}
        given = {names[item.name]: getattr(self, item.name) for item in fields(self)}
        return {
            name: hashlib.sha256(mask.tobytes()).hexdigest()
            for name, mask in given.items()
            if mask is not None
        }


def complement(mask: Image.Image) -> Image.Image:
    """White where a mode L mask is 0, black wherever it covers anything, however little."""
    return levels(mask, lambda value: 255 * (value == 0))
