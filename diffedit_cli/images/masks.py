"""A user's masks: read, interpreted, checked against their picture, and combined with a found one."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter, ImageStat

from ..core.diffedit import Areas
from ..errors import ImageError
from . import canvas
from .canvas import Fit
from .pixels import extent, levels
from .read import Picture, Source, load_image

FAINT = 8  # levels below it are dust, unless they lie at the edge of something brighter
RIM = 32  # pixels that such an edge may be wide
DIM = 128  # a mask that is nowhere brighter gets a notice
LABELS = 32  # brightest level of a mask that holds numbers of labels
FLAT = 16  # a mask of at most this many colours holds colours of labels
FULL = 16  # level of grey from which what is redrawn there is pasted whole: below it hardly anything changed
GREY = "is_grey"  # in a mask's info: whether it has shades of its own, and not only those of its scaling


@dataclass(frozen=True)
class Masks:
    """What a user specifies about where to edit. Each mask has mode L and the picture's size; white counts.

    use: edit here, without a search. add: areas to add to the mask. subtract: areas to keep as they are.
    notices: how they were interpreted. `read` and `of` make them from files, images and arrays of any kind.
    """

    use: Image.Image | None = None
    add: Image.Image | None = None
    subtract: Image.Image | None = None
    notices: tuple[str, ...] = ()

    @staticmethod
    def read(
        picture: Picture, use: Source | None = None, add: Source | None = None, subtract: Source | None = None
    ) -> "Masks":
        """Masks as `load_mask` reads them, with its notices. ImageError as there."""
        notices: list[str] = []
        size = picture.rgb.size
        areas = [
            given if given is None else load_mask(given, size, picture, notices)
            for given in (use, add, subtract)
        ]
        return Masks(*areas, notices=tuple(notices))

    @staticmethod
    def of(given: "Given", picture: Picture | None = None) -> "Masks":
        """A single mask means `Masks(use=mask)`. With a picture, all are checked and interpreted."""
        masks = given if isinstance(given, Masks) else Masks(given)  # type: ignore[arg-type]
        if picture is None:
            return masks
        checked = Masks.read(picture, masks.use, masks.add, masks.subtract)
        return replace(checked, notices=(*masks.notices, *checked.notices))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given."""
        return self.use is None and self.add is None and self.subtract is None

    def inverted(self) -> "Masks":
        """The same, but editing everything that `use` does not touch."""
        return self if self.use is None else replace(self, use=complement(self.use))

    @property
    def is_grey(self) -> bool:
        """Whether the given masks have shades of grey, which say how strongly each place is redrawn."""
        return any(area is not None and area.info.get(GREY) for area in (self.use, self.add, self.subtract))

    def mend(self, found: Image.Image) -> Image.Image:
        """A mask with the areas added, then subtracted (`core.mask.combine` at the picture's size)."""
        if self.add is not None:
            found = ImageChops.lighter(found, self.add)
        if self.subtract is not None:
            found = ImageChops.multiply(found, ImageChops.invert(self.subtract))
        return found

    def cells(self, fit: Fit, factor: int, device: torch.device) -> Areas:
        """The same in the latent cells of a working canvas."""
        areas = self.use, self.add, self.subtract
        cells = (area and canvas.mask_to_cells(area, fit, factor).to(device) for area in areas)
        return Areas(*cells, is_grey=self.is_grey)

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the pixels of each mask given, under the name that a result stores it by."""
        names = {"use": "mask_sha256", "add": "mask_add_sha256", "subtract": "mask_subtract_sha256"}
        given = {names[item.name]: getattr(self, item.name) for item in fields(self) if item.name in names}
        return {
            name: hashlib.sha256(mask.tobytes()).hexdigest()
            for name, mask in given.items()
            if mask is not None
        }


def opaque(mask: Image.Image) -> Image.Image:
    """How much of the edit is pasted if a mask's shades are strengths: what was redrawn is not mixed."""
    return levels(mask, lambda level: min(255, level * 255 // FULL))


def complement(mask: Image.Image) -> Image.Image:
    """White where a mode L mask is 0, black wherever it covers anything at all."""
    return levels(mask, lambda value: 255 * (value == 0))


Given: TypeAlias = Masks | Image.Image | np.ndarray | None


def load_mask(
    source: Source,
    size: tuple[int, int],
    picture: Picture | None = None,
    notices: list[str] | None = None,
) -> Image.Image:
    """Read a mask, white = edit, as mode L at `size`.

    source: what `load_image` takes; also arrays of bool, of whole numbers from 0 to 255, and of floats from 0
    to 1, which are taken as they are. Any resolution with the same proportions will do. If there is
    transparency, that is the mask (opaque = edit), unless the colours are those of `picture` throughout: then
    it is the picture with a hole, and the hole is edited. Otherwise brightness is the mask. Of two levels the
    brighter one is edited; of numbered or coloured labels, all but 0 and black. Levels below FAINT far from
    anything brighter are dropped. If a mask can be read in more than one way, how it was read is added to
    `notices`; whether it has shades of grey is stored in its `info`, since scaling adds some to any mask.
    ImageError: proportions other than the picture's, values out of range, or a photo.
    """
    told = [] if notices is None else notices
    if isinstance(source, np.ndarray) and source.dtype.kind in "biuf":
        values = _values(source)
        if source.dtype.kind in "bf":
            return _sized(noted(Image.fromarray(values)), size, "The mask")
        source = values
    given = load_image(source)
    name = "The mask" if given.name == "image" else f"The mask {given.name}"
    _check_shape(given.rgb.size, size, name)
    if given.alpha is None or given.alpha.getextrema() == (255, 255):
        mask = _brightness(given.rgb, name, told)
    else:
        mask = _transparency(given, picture, name, told)
    is_grey = source.info.get(GREY) if isinstance(source, Image.Image) else None
    return _sized(noted(_understood(mask, name, told), is_grey), size, name)


def noted(mask: Image.Image, is_grey: bool | None = None) -> Image.Image:
    """A mask that records whether it has shades of its own; is_grey: what is known about that."""
    found = any(mask.histogram()[1:255]) if is_grey is None else is_grey
    mask.info = {GREY: found}
    return mask


def _values(array: np.ndarray) -> np.ndarray:
    """An array as uint8; floats count from 0 to 1."""
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if values.dtype.kind == "f" or values.dtype == bool:
        values = values * 255.0
    if not values.size or not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ImageError(
            f"The mask is an array of {array.dtype} with values that are out of range.",
            "Give bool, whole numbers from 0 to 255, or floats from 0 to 1.",
        )
    if array.dtype.kind in "bf" and values.ndim != 2:
        raise ImageError(
            f"The mask is an array of the shape {array.shape}.",
            "Give one of the shape (h w).",
        )
    return np.rint(values).astype(np.uint8)


def _check_shape(own: tuple[int, int], size: tuple[int, int], name: str) -> None:
    (width, height), (w, h) = own, size
    if abs(width * h - height * w) >= max(w, h):  # more than the rounding of one pixel
        raise ImageError(
            f"{name} is {width} x {height} pixels, which is not the shape of the picture, {w} x {h}.",
            "Make the mask from the picture itself, at any resolution but with the same proportions.",
        )


def _sized(mask: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    _check_shape(mask.size, size, name)
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _transparency(given: Picture, picture: Picture | None, name: str, notices: list[str]) -> Image.Image:
    """The mask in the alpha of a file: opaque is edited, or a hole in the picture itself."""
    assert given.alpha is not None
    if picture is not None and _differs(given.rgb, picture.rgb, None) < 4:
        notices.append(f"{name} is the picture with a hole in its transparency; the hole is edited.")
        return ImageChops.invert(given.alpha)
    if picture is not None and _differs(given.rgb, picture.rgb, given.alpha) < 4:
        notices.append(
            f"{name} shows a part of the picture, and that part is edited. To edit the rest, invert it."
        )
    return given.alpha


def _differs(one: Image.Image, other: Image.Image, where: Image.Image | None) -> float:
    """The mean difference in levels of two pictures, each scaled to a small size; where: mode L."""
    side = min(256, one.width), min(256, one.height)
    small = [image.resize(side, Image.Resampling.BOX) for image in (one, other)]
    if where is not None:
        where = levels(where.resize(side, Image.Resampling.BOX), lambda level: 255 * (level == 255))
        if where.getbbox() is None:
            return 255.0
    return max(ImageStat.Stat(ImageChops.difference(*small), where).mean)


def _brightness(rgb: Image.Image, name: str, notices: list[str]) -> Image.Image:
    """The brightness of a mask; for one colour on black, how much of that colour there is."""
    bands = rgb.split()
    most = ImageChops.lighter(ImageChops.lighter(*bands[:2]), bands[2])
    least = ImageChops.darker(ImageChops.darker(*bands[:2]), bands[2])
    if extent(ImageChops.subtract(most, least))[1] < 3 * FAINT:
        return rgb.convert("L")
    colours, is_on_black = rgb.getcolors(FLAT), extent(most)[0] < FAINT
    if colours and is_on_black:
        if len(colours) > 2:
            notices.append(f"{name} has {len(colours)} colours; all but black are edited.")
        return levels(most, lambda value: 255 * (value >= FAINT))
    if colours:
        return rgb.convert("L")
    if not is_on_black or _is_of_many_colours(rgb):
        raise ImageError(
            f"{name} is a picture in colours, not a mask.", "Paint white, or one colour, on black."
        )
    top = extent(most)[1]
    return levels(most, lambda value: min(255, value * 255 // top))


def _is_of_many_colours(rgb: Image.Image) -> bool:
    """Whether the pixels are not all shades of one colour, up to what JPEG does at edges."""
    pixels = np.asarray(rgb.resize((min(128, rgb.width), min(128, rgb.height)), Image.Resampling.BOX), float)
    pixels = pixels.reshape(-1, 3)
    colour = pixels[pixels.sum(1).argmax()]
    shades = np.outer(pixels @ colour / (colour @ colour), colour)
    return float(np.abs(pixels - shades).max(1).mean()) > FAINT


def _understood(grey: Image.Image, name: str, notices: list[str]) -> Image.Image:
    """A mask whose levels mean what its maker intended."""
    found = [level for level, count in enumerate(grey.histogram()) if count]
    top = found[-1]
    if found in ([0], [255], [0, 255]):
        return grey
    if len(found) == 2:
        if found not in ([0, 1], [0, 254], [1, 255]):
            notices.append(f"{name} has the levels {found[0]} and {top} only; {top} is edited.")
        return levels(grey, lambda level: 255 * (level == top))
    if top < LABELS:
        notices.append(f"{name} has the levels 0 to {top}, which are read as labels; all but 0 are edited.")
        return levels(grey, lambda level: 255 * (level > 0))
    if top < DIM:
        notices.append(f"{name} is dim: its brightest level is {top} of 255, so the edit is weak too.")
    return _without_dust(grey)


def _without_dust(grey: Image.Image) -> Image.Image:
    """Set faint levels to 0 where nothing brighter is near, since they would count as parts of the mask."""
    faint = levels(grey, lambda level: 255 * (0 < level < FAINT))
    near = levels(grey, lambda level: 255 * (level >= FAINT)).filter(ImageFilter.BoxBlur(RIM))
    near = levels(near, lambda level: 255 * (level > 0))
    dust = ImageChops.multiply(faint, ImageChops.invert(near))
    return ImageChops.subtract(grey, dust) if dust.getbbox() else grey
