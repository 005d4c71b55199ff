"""Converts pixels of every mode to upright RGB with 8 bits per channel; large pictures are processed in
strips."""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from PIL import Image, ImageOps

from .colour import SRGB, convert, read_profile

Box = tuple[int, int, int, int]

STRIP_PIXELS = 2**21

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))


def split(
    image: Image.Image, name: str, notices: list[str]
) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """A decoded picture of any mode as RGB or RGBA, alpha if that is apart, and the ICC profile if it still
    fits. Where the picture is converted, the given one is closed."""
    icc, alpha = image.info.get("icc_profile"), _alpha(image)
    if image.mode[0] in "IF":
        grey = _to_8_bits(image, name, notices)
        image.close()  # 4 bytes a pixel that are not needed any more
        image = grey
    profile, space = read_profile(icc)
    if image.mode in ("1", "LA"):
        grey = image.convert("L")
        image.close()
        image = grey
    if profile and (image.mode, space) in (("L", "GRAY"), ("CMYK", "CMYK")):
        rgb = convert(image, profile, SRGB)
        image.close()
        notices.append(f"{name} was converted from {space} to sRGB by its colour profile.")
        return rgb, alpha, None
    if image.mode in ("CMYK", "LAB"):
        notices.append(f"{name} was converted from {image.mode} to sRGB.")
    fits = space == "RGB" and image.mode not in ("CMYK", "LAB")
    if image.mode not in ("RGB", "RGBA"):
        rgb = image.convert("RGB")
        image.close()
        image = rgb
    return image, alpha, icc if fits else None


def upright(
    image: Image.Image, alpha: Image.Image | None, turn: Image.Transpose | None
) -> tuple[Image.Image, Image.Image | None]:
    """An RGB or RGBA image, which is closed, as RGB and alpha, turned.

    At most two copies of a large picture are in memory: it is turned before its bands are split. The new
    images have no `info`, from which Pillow would copy a transparent colour, a comment or a compression into
    a new file.
    """
    if turn is not None:
        turned = image.transpose(turn)
        image.close()
        image, alpha = turned, alpha.transpose(turn) if alpha else None
    bands = image.split()
    image.close()
    rgb, alpha = Image.merge("RGB", bands[:3]), bands[3] if len(bands) > 3 else alpha
    rgb.info = {}
    if alpha is not None:
        alpha.info = {}
    return rgb, alpha


def _alpha(image: Image.Image) -> Image.Image | None:
    """The transparency, except that of RGBA, which has it as a band."""
    if image.mode in ("LA", "PA"):  # LAB has a band A too
        return image.getchannel("A")
    key = image.info.get("transparency")
    if key is None:
        return None
    if image.mode[0] in "IF":
        return _by_strips(image, lambda values: np.where(values == key, 0, 255))
    return image.convert("RGBA").getchannel("A")


def _to_8_bits(image: Image.Image, name: str, notices: list[str]) -> Image.Image:
    """A grey of 16 bits, 32 bits or floats as mode L, scaled from its nominal range, else from its own."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        low, high = 0.0, float(2 ** min(tags.get(258, (16,))[0], 16) - 1)
        if high > 255 and 0 < (top := extent(image)[1]) <= 255:
            notices.append(f"{name} has 16 bits but no value above {top:g}; it was read as one of 8 bits.")
            high = 255.0
    else:
        low, high = _extrema(image)
        nominal = [n for n in (1.0, 255.0, 65535.0)[image.mode == "I" :] if low >= 0 and high <= n]
        if nominal:
            low, high = 0.0, nominal[0]
        else:
            notices.append(f"{name} has values from {low:g} to {high:g}; they were scaled to 8 bits.")
    span = np.float32(max(high - low, 1e-30))
    grey = _by_strips(image, lambda values: np.rint((_finite(values) - np.float32(low)) / span * 255))
    white_is_zero = image.mode.startswith("I;16") and tags.get(262) == 0  # Pillow does not turn these round
    return ImageOps.invert(grey) if white_is_zero else grey


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _extrema(image: Image.Image) -> tuple[float, float]:
    parts = [_finite(np.asarray(image.crop(box))) for box in strips(image.size)]
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def _by_strips(image: Image.Image, function: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """A mode L image made from the values of another one, strip by strip."""
    result = Image.new("L", image.size)
    for box in strips(image.size):
        values = function(np.asarray(image.crop(box))).clip(0, 255).astype(np.uint8)
        result.paste(Image.fromarray(values), box)
    return result


def strips(size: tuple[int, int], box: Box | None = None) -> Iterator[Box]:
    """Boxes over the full width of `box` (default: all), of about STRIP_PIXELS each."""
    left, top, right, bottom = box or (0, 0, *size)
    rows = max(1, STRIP_PIXELS // (right - left))
    for y in range(top, bottom, rows):
        yield left, y, right, min(y + rows, bottom)


def extent(image: Image.Image) -> tuple[int, int]:
    """The lowest and the highest level of an image of one band."""
    return cast(tuple[int, int], image.getextrema())


def levels(image: Image.Image, function: Callable[[int], int]) -> Image.Image:
    """A mode L image with each level mapped to another one."""
    return image.point([function(level) for level in range(256)])
