"""Reading picture files: the one way in.

A `Picture` keeps what the user needs and the network does not: its own size, colour space, alpha, EXIF, and
what else its file says about it.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

from ..errors import DiffeditError, ImageError
from .colour import profile_of_codes, profile_of_png, to_srgb
from .headers import HDR_NAMES, MAX_CHUNK, Header, examine, is_heif, webp_size
from .metadata import Extras, as_dict, comment_text, read_exif, read_extras, settings_in
from .pixels import SIDEWAYS, TURNS, split, strips, upright

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

READ_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000")
MAX_PIXELS = 12_000 * 9_000
MAX_COSTLY = 50_000_000  # pixels of those that take more memory to decode
COSTLY = ("WEBP", "AVIF", "HEIF", "JPEG2000")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it has to say of a bad file, we say


@dataclass(frozen=True)
class Picture:
    """A picture as its file shows it.

    `rgb` has mode RGB, is turned upright, and holds values of the picture's own colour space, which `icc`
    describes (None: sRGB). `alpha` has mode L and the same size. `exif` contains no rotation and no
    thumbnail. `name` is the file's base name ('stdin' for bytes and streams, 'image' for pixels), `sha256`
    that of the file's bytes, or of the pixels. `notices` are sentences for the user. `extras`: what else the
    file says.
    """

    rgb: Image.Image
    alpha: Image.Image | None
    icc: bytes | None
    exif: bytes | None
    name: str
    sha256: str
    notices: tuple[str, ...] = ()
    extras: Extras = Extras()


def load_image(source: Source) -> Picture:
    """Read a picture from a path, bytes, a binary stream, a PIL image, or a uint8 array.

    An array has the shape (h w), (h w 3) or (h w 4). Formats of files: READ_FORMATS, and HEIC where
    pillow-heif is installed; at most MAX_PIXELS, and MAX_COSTLY of those in COSTLY (checked in the header,
    before decoding). If there are several frames, the first is used. Grey, CMYK and LAB become RGB, using
    their ICC profile if they have one; values of more than 8 bits are scaled, not clipped. Whatever is wrong
    with the file, raises ImageError with one sentence. Warning filters are left alone: Pillow's warnings,
    about an odd file for example, reach the caller.
    """
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    if isinstance(source, Image.Image):
        return _of_image(source)
    with _opened(source) as (image, stream, header, name):
        notices: list[str] = []
        if (frames := _frames(image)) > 1:
            notices.append(f"{name} has {frames} frames; only the first is used.")
        is_sideways = _turn(image) in SIDEWAYS
        image.load()  # turns a TIFF
        return _picture(image, header, name, _sha256(stream), notices, is_sideways)


def _picture(
    image: Image.Image, header: Header, name: str, sha256: str, notices: list[str], is_sideways: bool
) -> Picture:
    """A decoded picture, which is closed."""
    exif, turn = read_exif(image), _turn(image)
    extras = read_extras(image, header, name, notices, is_turned=is_sideways)
    image.info["icc_profile"] = _profile(image, header, name, notices)
    colours, alpha, icc = split(image, name, notices)
    rgb, alpha = upright(colours, alpha, turn)
    if icc and len(icc) > MAX_CHUNK:
        rgb, icc = to_srgb(rgb, icc), None
        notices.append(
            f"The colour profile of {name} is too long for a PNG, so the picture was converted to sRGB."
        )
    return Picture(rgb, alpha, icc, exif, name, sha256, tuple(notices), extras)


def _of_array(values: np.ndarray) -> Image.Image:
    if (
        values.dtype != np.uint8
        or values.ndim < 2
        or values.shape[2:] not in ((), (3,), (4,))
        or not values.size
    ):
        raise ImageError(
            f"An array of {values.dtype} and the shape {values.shape} is not a picture.",
            "Give uint8 of the shape (h w), (h w 3) or (h w 4).",
        )
    return Image.fromarray(values)


def _of_image(image: Image.Image) -> Picture:
    """The frame that a PIL image shows now. The image stays as it is."""
    name, tags = "image", getattr(image, "tag_v2", None)
    _check_size(image.size, image.format or "", name)
    with _told(name):
        own = image.copy()
        own.format, own.info = image.format, dict(image.info)
        for key, value in (("tag_v2", tags), ("applist", getattr(image, "applist", []))):
            if value is not None:
                setattr(own, key, value)
        digest = hashlib.sha256(f"{own.mode} {own.size} {own.getpalette()}".encode())
        for box in strips(own.size):
            digest.update(own.crop(box).tobytes())
        exif = image.getexif()
        own.getexif = lambda: exif  # a copy's has no more than info holds
        return _picture(own, Header(), name, digest.hexdigest(), [], _turn(image) in SIDEWAYS)


@contextlib.contextmanager
def _opened(source: Any) -> Generator[tuple[Image.Image, BinaryIO, Header, str], None, None]:
    """Open a picture's header; whatever fails here or in the block becomes an ImageError."""
    name, path = _name(source), _path(source)
    with _stream(source, path) as stream, _told(path):
        start = stream.read(32)
        _check_size(webp_size(start), "WEBP", path)
        stream.seek(0)
        bounded, header = examine(stream)
        image = _heif(bounded, path) if is_heif(start) else None
        if image is None:
            image = Image.open(bounded, formats=READ_FORMATS)
        _check_size(image.size, image.format or "", path)
        yield image, stream, header, name


@contextlib.contextmanager
def _told(name: str) -> Generator[None, None, None]:
    """Turns whatever Pillow raises in the block into an ImageError of one sentence."""
    try:
        yield
    except (DiffeditError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, MAX_PIXELS) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture of a kind that is read, or its beginning is damaged.",
            "Convert it to JPEG, PNG, WebP, TIFF, BMP or GIF.",
        ) from error
    except Warning as error:
        raise ImageError(
            f"{name} makes Pillow warn, and warnings are errors here ({reason(error)}).",
            "Let warnings of PIL pass, or open the file in an image editor and save it anew.",
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        raise ImageError(
            f"{name} is damaged or incomplete.",
            "Fetch it again, or open it in an image editor and save it anew.",
        ) from error


def _check_size(size: tuple[int, int], kind: str, name: str) -> None:
    most = MAX_COSTLY if kind in COSTLY else MAX_PIXELS
    if size[0] * size[1] > most:
        raise _too_large(name, most)


def _too_large(name: str, most: int) -> ImageError:
    return ImageError(
        f"{name} has more than the {most // 10**6} million pixels that are read.", "Scale it down first."
    )


def _heif(stream: BinaryIO, name: str) -> Image.Image | None:
    """A HEIC by pillow-heif; None: it is an AVIF, or neither."""
    stream.seek(8)
    brand = stream.read(4)
    stream.seek(0)
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        if brand in (b"mif1", b"msf1"):  # of AVIF, too
            return None
        raise ImageError(
            f"{name} is HEIC, and pillow-heif, which reads it, is not installed.",
            "Run: pip install 'diffedit-cli[heic]', or convert the picture to JPEG.",
        ) from error
    try:
        return HeifImageFile(stream)
    except SyntaxError:
        stream.seek(0)
        return None


def _name(source: Source) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return "stdin"
    return _printable(os.path.basename(os.path.abspath(os.fspath(source))))


def _path(source: Source) -> str:
    """The source as errors name it: a path as it was given."""
    return _printable(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "stdin"


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _stream(source: Any, path: str) -> BinaryIO:
    """A seekable stream of the file's bytes; a pipe is read to its end first."""
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
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
    except (AttributeError, TypeError) as error:
        raise ImageError(
            f"A {type(source).__name__} is not a picture, or was not opened in binary mode.",
            "Give a path, bytes, a binary file, a PIL image or an array.",
        ) from error


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


def _profile(image: Image.Image, header: Header, name: str, notices: list[str]) -> bytes | None:
    """The ICC profile, or one that says what the file says otherwise."""
    info, codes = image.info, header.codes
    if image.format == "PNG" and len(data := header.chunks.get(b"cICP", b"")) == 4:
        codes = data[0], data[1]
    if codes and codes[1] in HDR_NAMES:
        kind = HDR_NAMES[codes[1]]
        notices.append(f"{name} is HDR ({kind}), and its values are edited as if they were sRGB.")
        return None
    if icc := info.get("icc_profile") or header.icc:
        return icc
    made = profile_of_codes(*codes) if codes else None
    if image.format == "PNG" and made is None and "srgb" not in info:
        made = profile_of_png(info.get("gamma"), info.get("chromaticity"))
    if made:
        notices.append(f"{name} describes its colours without a profile; the result has a profile that does.")
    return made


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # damaged EXIF is no reason to refuse a picture
        return None


def read_settings(source: Source) -> dict[str, Any] | None:
    """The settings that save_image stored in a PNG, JPEG, WebP or TIFF, or None. ImageError: no picture."""
    with _opened(source) as (image, _, _, _):
        if isinstance(text := image.info.get("diffedit"), str):
            return as_dict(text)
        if isinstance(comment := image.info.get("comment"), bytes) and image.format == "GIF":
            return settings_in(comment.decode("utf-8", "replace"))
        if "exif" not in image.info and image.format == "PNG":
            return None
        return settings_in(comment_text(image.getexif().get_ifd(IFD.Exif).get(Base.UserComment)))
