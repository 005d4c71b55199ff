"""Reading picture files: the one way in.

A `Picture` keeps what the network does not need and the user does: its own size, colour space, alpha and
EXIF. Writing is all or nothing (`atomic_path`).

Pictures are 8 bits a channel. Big ones (12,000 x 9,000) never become floats as a whole: loops go by strips.
"""

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import IFD, Base

from ..errors import DiffeditError, ImageError
from .colour import SRGB, convert, read_profile
from .metadata import as_dict, comment_text, settings_in

Source = str | os.PathLike[str] | bytes | BinaryIO
Box = tuple[int, int, int, int]

READ_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_PIXELS = 12_000 * 9_000
STRIP_PIXELS = 2**21

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it has to say of a bad file, we say

# Tags of the main EXIF directory that say something about the photo. The others describe how the old file
# stored its pixels (a TIFF keeps them in the same directory) and would be wrong in a new one.
_KEPT_TAGS = (
    {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 318, 319, 33432, 0x4746, 0x4749}
    | set(range(0x9C9B, 0x9CA0))
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture as its file shows it.

    `rgb` has mode RGB, is turned upright, and holds values of the picture's own colour space, which `icc`
    describes (None: sRGB). `alpha` has mode L and the same size. `exif` says nothing of a turn and has no
    thumbnail. `name` is the file's base name ('stdin' for bytes and streams), `sha256` that of the file's
    bytes. `notices` are sentences for the user.
    """

    rgb: Image.Image
    alpha: Image.Image | None
    icc: bytes | None
    exif: bytes | None
    name: str
    sha256: str
    notices: tuple[str, ...] = ()


def load_image(source: Source) -> Picture:
    """Read a picture from a path, bytes or a binary stream.

    Formats: READ_FORMATS, at most MAX_PIXELS (checked in the header, before decoding). Of several frames the
    first is used. Grey, CMYK and LAB become RGB, by their ICC profile if they have one; values of more than 8
    bits are scaled, not clipped. Raises ImageError with one sentence whatever is wrong with the file.
    """
    with _opened(source) as (image, stream, name):
        notices: list[str] = []
        if (frames := _frames(image)) > 1:
            notices.append(f"{name} has {frames} frames; only the first is used.")
        image.load()
        exif, turn, sha256 = _exif(image), _turn(image), _sha256(stream)
        colours, alpha, icc = _split(image, name, notices)
        rgb, alpha = _upright(colours, alpha, turn)
        return Picture(rgb, alpha, icc, exif, name, sha256, tuple(notices))


def load_mask(source: Source, size: tuple[int, int]) -> Image.Image:
    """Read a mask, white = edit, as mode L at `size`.

    Any resolution of the same shape will do. If the file has transparency then that is the mask (opaque =
    edit), else its brightness. A file of zeros and ones only is read as black and white. Raises ImageError.
    """
    picture = load_image(source)
    clear = picture.alpha is not None and picture.alpha.getextrema() != (255, 255)
    mask = cast(Image.Image, picture.alpha) if clear else picture.rgb.convert("L")
    if mask.getextrema() == (0, 1):
        mask = levels(mask, lambda value: min(value, 1) * 255)
    (width, height), (w, h) = mask.size, size
    if abs(width * h - height * w) >= max(w, h):  # more than the rounding of one pixel
        raise ImageError(
            f"The mask {picture.name} is {width} x {height} pixels, which is not the shape of the picture, "
            f"{w} x {h}.",
            "Make the mask from the picture itself, at any resolution but with the same proportions.",
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


@contextlib.contextmanager
def _opened(source: Source) -> Generator[tuple[Image.Image, BinaryIO, str], None, None]:
    """Open a picture's header; whatever fails here or in the block becomes an ImageError."""
    name, path = _name(source), _path(source)
    with warnings.catch_warnings(), _stream(source, path) as stream:
        warnings.simplefilter("ignore")
        try:
            image = Image.open(stream, formats=READ_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image, stream, name
        except DiffeditError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{path} has more than the {MAX_PIXELS // 10**6} million pixels that are read.",
                "Scale it down first.",
            ) from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(
                f"{path} is not a picture of a kind that is read, or its beginning is damaged.",
                "Convert it to JPEG, PNG, WebP, TIFF, BMP or GIF.",
            ) from error
        except Exception as error:  # Pillow's decoders raise nearly every type there is
            raise ImageError(
                f"{path} is damaged or incomplete.",
                "Fetch it again, or open it in an image editor and save it anew.",
            ) from error


def _name(source: Source) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return "stdin"
    return _printable(os.path.basename(os.path.abspath(os.fspath(source))))


def _path(source: Source) -> str:
    """The source as errors name it: a path as it was given."""
    return _printable(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "stdin"


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _stream(source: Source, path: str) -> BinaryIO:
    """A seekable stream of the file's bytes; a pipe is read to its end first."""
    try:
        if isinstance(source, bytes):
            return io.BytesIO(source)
        if not isinstance(source, (str, os.PathLike)):
            return io.BytesIO(source.read())
        stream = open(source, "rb")  # noqa: SIM115 (the caller closes it)
        if stream.seekable():
            return stream
        with stream:
            return io.BytesIO(stream.read())
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist.", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be opened ({reason(error)}).", "Give a picture file.") from error


def reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower().rstrip(".")


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _frames(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged; the first one may not be
        image.seek(0)
        return 1


def _split(
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


def _upright(
    image: Image.Image, alpha: Image.Image | None, turn: Image.Transpose | None
) -> tuple[Image.Image, Image.Image | None]:
    """An RGB or RGBA image, which is closed, as RGB and alpha, turned.

    A big picture is held twice at most: it is turned before its bands are taken apart. The new images have no
    info: a transparent colour or a comment must not reach a file that is written from here.
    """
    if turn is not None:
        turned = image.transpose(turn)
        image.close()
        image, alpha = turned, alpha.transpose(turn) if alpha else None
    bands = image.split()
    image.close()
    return Image.merge("RGB", bands[:3]), bands[3] if len(bands) > 3 else alpha


def _alpha(image: Image.Image) -> Image.Image | None:
    """The transparency, but of RGBA, which has it as a band."""
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


def levels(image: Image.Image, function: Callable[[int], int]) -> Image.Image:
    """A mode L image with each level mapped to another one."""
    return image.point([function(level) for level in range(256)])


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # damaged EXIF is no reason to refuse a picture
        return None


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF without orientation, thumbnail, and what an earlier run of this program stored."""
    try:
        old, new = image.getexif(), Image.Exif()
        for tag in _KEPT_TAGS & set(old):
            new[tag] = old[tag]
        for group in (IFD.Exif, IFD.GPSInfo):
            entries = dict(old.get_ifd(group))
            if settings_in(comment_text(entries.get(Base.UserComment))):
                del entries[Base.UserComment]
            if IFD.Interop in entries:
                entries[IFD.Interop] = dict(old.get_ifd(IFD.Interop))
            if entries:
                new[group] = entries
        return new.tobytes() if len(new) else None
    except Exception:
        return None


def read_settings(source: Source) -> dict[str, Any] | None:
    """The settings that save_image stored in a PNG, JPEG, WebP or TIFF, or None. ImageError: no picture."""
    with _opened(source) as (image, _, _):
        if isinstance(text := image.info.get("diffedit"), str):
            return as_dict(text)
        if isinstance(comment := image.info.get("comment"), bytes):  # an animated GIF's
            return settings_in(comment.decode("utf-8", "replace"))
        if "exif" not in image.info and image.format == "PNG":
            return None
        return settings_in(comment_text(image.getexif().get_ifd(IFD.Exif).get(Base.UserComment)))
