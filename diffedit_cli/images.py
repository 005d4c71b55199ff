"""Pictures in, pictures out: the one module through which every picture passes.

A `Picture` keeps what the network does not need and the user does: its own size, colour space, alpha and
EXIF. A `Fit` says how it lies in the working canvas. `to_pixels` goes in, `paste` comes back, and outside the
mask the original pixels stay as they are, bit for bit. Writing is all or nothing (`atomic_path`).

Pictures are 8 bits a channel. Big ones (12,000 x 9,000) never become floats as a whole: loops go by strips.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFilter, ImageFont, ImageOps, PngImagePlugin
from PIL.ExifTags import IFD, Base
from torch import Tensor
from torch.nn import functional

from .ddim import require_finite
from .errors import DiffeditError, ImageError, SettingError

Source = str | os.PathLike[str] | bytes | BinaryIO
Box = tuple[int, int, int, int]

READ_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
WRITE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
OPAQUE = ("JPEG", "BMP")
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
MAX_PIXELS = 12_000 * 9_000
MAX_EXIF = 65_500  # bytes that fit a JPEG
MAX_STRETCH = 4  # the long side of the working picture is at most so many times `side`
STRIP_PIXELS = 2**21
GREY = (128, 128, 128)
MARK = 'diffedit: "'

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
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


@dataclass(frozen=True)
class Fit:
    """How a picture lies in the working canvas. All are pixels, (width, height) or (x, y).

    `size` is the picture's own size; `content` is what it is scaled to; `canvas` is the content padded to
    a multiple; `offset` is where the content begins in the canvas.
    """

    size: tuple[int, int]
    content: tuple[int, int]
    canvas: tuple[int, int]
    offset: tuple[int, int]

    @property
    def box(self) -> Box:
        """The content in the canvas: left, top, right, bottom."""
        (x, y), (width, height) = self.offset, self.content
        return x, y, x + width, y + height


# ---------------------------------------------------------------------------------------------- reading


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
        rgb, alpha, icc = _split(image, name, notices)
        image.close()  # frees the decoded pixels before the turn: a big picture is held twice at most
        if turn is not None:
            rgb = rgb.transpose(turn)
            alpha = alpha.transpose(turn) if alpha else None
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
        mask = _levels(mask, lambda value: min(value, 1) * 255)
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
    name = _name(source)
    with warnings.catch_warnings(), _stream(source, name) as stream:
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
                f"{name} has more than the {MAX_PIXELS // 10**6} million pixels that are read.",
                "Scale it down first.",
            ) from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(
                f"{name} is not a picture of a kind that is read, or its beginning is damaged.",
                "Convert it to JPEG, PNG, WebP, TIFF, BMP or GIF.",
            ) from error
        except Exception as error:  # Pillow's decoders raise nearly every type there is
            raise ImageError(
                f"{name} is damaged or incomplete.",
                "Fetch it again, or open it in an image editor and save it anew.",
            ) from error


def _name(source: Source) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return "stdin"
    name = os.path.basename(os.path.abspath(os.fspath(source)))
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _stream(source: Source, name: str) -> BinaryIO:
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
        raise ImageError(f"{name} does not exist.", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be opened ({_reason(error)}).", "Give a picture file.") from error


def _reason(error: Exception) -> str:
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
    """A decoded picture of any mode as RGB, alpha, and the ICC profile if it still fits."""
    icc, alpha = image.info.get("icc_profile"), _alpha(image)
    if image.mode[0] in "IF":
        grey = _to_8_bits(image, name, notices)
        image.close()  # 4 bytes a pixel that are not needed any more
        image = grey
    profile, space = _profile(icc)
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    if profile and (image.mode, space) in (("L", "GRAY"), ("CMYK", "CMYK")):
        rgb = _convert(image, profile, _SRGB)
        notices.append(f"{name} was converted from {space} to sRGB by its colour profile.")
        return rgb, alpha, None
    if image.mode in ("CMYK", "LAB"):
        notices.append(f"{name} was converted from {image.mode} to sRGB.")
    rgb = image.convert("RGB")
    rgb.info = {}  # a transparent colour, a comment: it must not reach a file that is written from here
    return rgb, alpha, icc if space == "RGB" and image.mode not in ("CMYK", "LAB") else None


def _alpha(image: Image.Image) -> Image.Image | None:
    if image.mode in ("LA", "PA", "RGBA"):  # LAB has a band A too
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
    parts = [_finite(np.asarray(image.crop(box))) for box in _strips(image.size)]
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def _by_strips(image: Image.Image, function: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """A mode L image made from the values of another one, strip by strip."""
    result = Image.new("L", image.size)
    for box in _strips(image.size):
        values = function(np.asarray(image.crop(box))).clip(0, 255).astype(np.uint8)
        result.paste(Image.fromarray(values), box)
    return result


def _strips(size: tuple[int, int], box: Box | None = None) -> Iterator[Box]:
    """Boxes over the full width of `box` (default: all), of about STRIP_PIXELS each."""
    left, top, right, bottom = box or (0, 0, *size)
    rows = max(1, STRIP_PIXELS // (right - left))
    for y in range(top, bottom, rows):
        yield left, y, right, min(y + rows, bottom)


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
            if _settings_in(_comment_text(entries.get(Base.UserComment))):
                del entries[Base.UserComment]
            if IFD.Interop in entries:
                entries[IFD.Interop] = dict(old.get_ifd(IFD.Interop))
            if entries:
                new[group] = entries
        return new.tobytes() if len(new) else None
    except Exception:
        return None


# ----------------------------------------------------------------------------------------------- colour


def _profile(icc: bytes | None) -> tuple[ImageCms.ImageCmsProfile | None, str]:
    """An ICC profile, and the colour space that it describes ('' if there is none or it is broken)."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)) if icc else None
        return profile, cast(Any, profile.profile).xcolor_space.strip() if profile else ""
    except Exception:
        return None, ""


def _convert(
    image: Image.Image, source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile
) -> Image.Image:
    """An L, RGB or CMYK image from one colour space to another, as RGB."""
    transform = ImageCms.buildTransform(
        source,
        target,
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    result = ImageCms.applyTransform(image, transform)
    assert result is not None
    result.info = {}
    return result


def _to_srgb(rgb: Image.Image, icc: bytes | None, *, back: bool = False) -> Image.Image:
    """From the profile's space to sRGB, or back. A profile that cannot do both ways is taken for sRGB."""
    profile, _ = _profile(icc)
    if profile is None:
        return rgb
    try:
        there, here = _convert(rgb, profile, _SRGB), _convert(rgb, _SRGB, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return rgb
    return here if back else there


# ------------------------------------------------------------------------------------ the working canvas


def fit(size: tuple[int, int], side: int, multiple: int) -> Fit:
    """Lay a picture of any size in a canvas of about side * side pixels.

    Scaled up or down by one factor, never squashed, then padded on all sides to multiples of `multiple`.
    The long side is at most MAX_STRETCH * side: beyond 16:1 the picture gets less area. A side that would be
    less than a pixel is one.
    """
    width, height = size
    scale = min(side / (width * height) ** 0.5, MAX_STRETCH * side / max(size))
    content = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = -(-content[0] // multiple) * multiple, -(-content[1] // multiple) * multiple
    offset = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
    return Fit(size, content, canvas, offset)


def to_pixels(picture: Picture, fit: Fit) -> Tensor:
    """What the network sees: float32 (1 3 H W) in [0, 1], sRGB, at the canvas' size.

    Transparent areas are shown over grey, so hidden colour does not leak. The padding repeats the edge.
    """
    rgb = picture.rgb
    if picture.alpha is not None and picture.alpha.getextrema() != (255, 255):
        rgb = Image.new("RGB", rgb.size, GREY)
        rgb.paste(picture.rgb, mask=picture.alpha)
    small = _to_srgb(rgb.resize(fit.content, Image.Resampling.LANCZOS), picture.icc)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
    left, top, right, bottom = fit.box
    return functional.pad(pixels, (left, fit.canvas[0] - right, top, fit.canvas[1] - bottom), "replicate")


def mask_to_cells(mask: Image.Image, fit: Fit, factor: int) -> Tensor:
    """A mode L mask at the picture's size as one value a cell: float32 (1 1 H/factor W/factor) in [0, 1].

    Each cell is the maximum over all pixels that it touches, so that no part of the mask is left unedited.
    Cells of padding only are 0.
    """
    columns, rows = (_spans(fit, axis, factor) for axis in (0, 1))
    cells = np.zeros((len(rows), len(columns)), np.uint8)
    for i, (top, bottom) in enumerate(rows):
        if top < bottom:
            line = np.asarray(mask.crop((0, top, mask.width, bottom))).max(axis=0)
            cells[i] = [line[left:right].max(initial=0) for left, right in columns]
    return torch.from_numpy(cells)[None, None].float() / 255


def _spans(fit: Fit, axis: int, factor: int) -> list[tuple[int, int]]:
    """First and past-the-last pixel of the picture under each cell of one axis; integers, so exact."""
    size, content, offset = fit.size[axis], fit.content[axis], fit.offset[axis]
    edges = [cell - offset for cell in range(0, fit.canvas[axis] + 1, factor)]
    return [
        (max(0, first * size // content), min(size, -(-last * size // content)))
        for first, last in itertools.pairwise(edges)
    ]


def mask_to_full(mask: Tensor, fit: Fit) -> Image.Image:
    """A soft mask (1 1 H W) in [0, 1] on the canvas as mode L at the picture's own size, bilinear."""
    require_finite(mask, "the mask")
    values = mask.detach().float().cpu()[0, 0].clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.numpy()).crop(fit.box).resize(fit.size, Image.Resampling.BILINEAR)


def image_to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture as float32 (1 3 H W) in [0, 1], scaled to fill `size` (w, h); what juts out is cut."""
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


def paste(picture: Picture, edited: Tensor, mask: Image.Image, fit: Fit) -> Image.Image:
    """The picture with the edit in it, RGB in its own colour space and at its own size.

    `edited` is sRGB (1 3 H W) in [0, 1] on the canvas; `mask` is mode L at the picture's size. Where the mask
    is 0 the pixels are the picture's, bit for bit; where it is 255 they are the edit's; between, a mix. The
    edit is scaled (Lanczos) only within the mask's bounding box, strip by strip. NumericError at NaN.
    """
    content = _to_srgb(pixels_to_image(edited).crop(fit.box), picture.icc, back=True)
    result = picture.rgb.copy()
    if (bounds := mask.getbbox()) is None:
        return result
    lanczos, left, right = Image.Resampling.LANCZOS, bounds[0], bounds[2]
    across, down = content.width / fit.size[0], content.height / fit.size[1]
    # Across first, once; then down, by strips. Left to itself Pillow chooses the order by the size of each
    # strip, and the strips would not match at their seams.
    span = left * across, 0, min(right * across, content.width), content.height
    wide = content.resize((right - left, content.height), lanczos, span)
    for box in _strips(fit.size, bounds):
        _, top, _, bottom = box
        rows = 0, top * down, wide.width, min(bottom * down, wide.height)
        result.paste(wide.resize((wide.width, bottom - top), lanczos, rows), (left, top), mask.crop(box))
    return result


def changed_outside(before: Image.Image, after: Image.Image, mask: Image.Image) -> int:
    """How many pixels differ where the mask is 0. All three have one size, the pictures one mode."""
    if not before.size == after.size == mask.size or before.mode != after.mode:
        raise ValueError("The pictures and the mask must have one size, and the pictures one mode.")
    count = 0
    for box in _strips(before.size):
        differs = np.asarray(before.crop(box)) != np.asarray(after.crop(box))
        if differs.ndim == 3:
            differs = differs.any(axis=2)
        count += int((differs & (np.asarray(mask.crop(box)) == 0)).sum())
    return count


# ---------------------------------------------------------------------------------------------- writing


def check_target(
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    picture: Picture | None = None,
    known: Sequence[str] = tuple(WRITE_FORMATS),
) -> None:
    """Refuse, before the long work, a target that could not be written after it.

    SettingError: the suffix is not in `known`, or the format cannot hold the picture: its transparency (JPEG
    and BMP; nothing is flattened unasked) or its size (JPEG and WebP). ImageError: the folder is missing or
    read-only, or the file exists.
    """
    target = Path(path)
    if target.suffix.lower() not in known:
        raise SettingError(
            f"{target.name} does not end in a known format.", f"Known are: {', '.join(known)}."
        )
    if picture is not None:
        _check_format(target, picture.rgb.size, picture.alpha)
    folder = target.parent
    if not folder.is_dir():
        raise ImageError(f"The folder of {target.name} does not exist.", "Make it first.")
    if not os.access(folder, os.W_OK):
        raise ImageError(f"The folder of {target.name} is read-only.", "Choose another one with -o.")
    if target.is_dir():
        raise ImageError(f"{target.name} is a folder.", "Give the name of a file.")
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)


def _check_format(target: Path, size: tuple[int, int], alpha: Image.Image | None) -> None:
    kind = WRITE_FORMATS.get(target.suffix.lower(), "")
    if alpha is not None and kind in OPAQUE and alpha.getextrema() != (255, 255):
        raise SettingError(
            f"{target.name} would lose the picture's transparency.", "Write a .png, .webp or .tiff instead."
        )
    if max(size) > MAX_SIDE.get(kind, max(size)):
        raise SettingError(
            f"{target.name} can have {MAX_SIDE[kind]} pixels a side, and the picture has {max(size)}.",
            "Write a .png or .tiff instead.",
        )


def _exists(target: Path) -> ImageError:
    return ImageError(f"{target.name} exists already.", "Choose another name, or add --overwrite.")


def save_image(
    target: str | os.PathLike[str] | BinaryIO,
    image: Image.Image,
    *,
    picture: Picture | None = None,
    settings: Mapping[str, Any] | None = None,
    parameters: str = "",
    overwrite: bool = False,
) -> None:
    """Write an image (L, RGB or RGBA) in the format that the suffix names; to a stream as PNG.

    An RGB image is given the alpha and ICC profile of `picture`, and any image its EXIF. `settings` (plain
    values) and `parameters` (text as AUTOMATIC1111 writes it) are stored: in PNG as the text chunks
    'diffedit' (JSON) and 'parameters', else in the EXIF UserComment; BMP has no place for them. All formats
    but JPEG (quality 95, 4:4:4) are lossless. Raises what check_target raises, and ImageError if writing
    fails; then nothing is left behind.
    """
    if not isinstance(target, (str, os.PathLike)):
        buffer = io.BytesIO()
        _encode(image, buffer, "PNG", picture, settings, parameters)
        target.write(buffer.getbuffer())
        target.flush()
        return
    path = Path(target)
    check_target(path, overwrite=overwrite, picture=picture if image.mode == "RGB" else None)
    _check_format(path, image.size, image.getchannel("A") if image.mode == "RGBA" else None)
    with atomic_path(path, overwrite=overwrite) as part:
        _encode(image, part, WRITE_FORMATS[path.suffix.lower()], picture, settings, parameters)


@contextlib.contextmanager
def atomic_path(target: Path, *, overwrite: bool) -> Generator[Path, None, None]:
    """A name in the target's folder to write to; at the end of the block the file takes the target's name.

    After any exception, KeyboardInterrupt too, the new file is removed and an old target is as it was.
    Without `overwrite` the name is taken exclusively: of two runs at once, one gets an ImageError.
    """
    part = target.with_name(f".diffedit-{secrets.token_hex(6)}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            os.replace(part, target)
        else:
            _claim(part, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise ImageError(
            f"{target.name} cannot be written ({_reason(error)}).",
            "Check that the disk has room and the folder is writable.",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _claim(part: Path, target: Path) -> None:
    """Give `part` the name `target`, failing if it is taken."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: reserve the name, then replace it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(part, target)


def _encode(
    image: Image.Image,
    out: Path | BinaryIO,
    kind: str,
    picture: Picture | None,
    settings: Mapping[str, Any] | None,
    parameters: str,
) -> None:
    is_colour = image.mode in ("RGB", "RGBA")
    alpha = picture.alpha if picture and image.mode == "RGB" else None
    if alpha is not None and kind not in OPAQUE:
        image = image.convert("RGBA")
        image.putalpha(alpha)
    elif image.mode == "RGBA" and kind in OPAQUE:
        image = image.convert("RGB")  # opaque: _check_format has seen to it
    options: dict[str, Any] = {"icc_profile": picture.icc if picture and is_colour else None}
    exif = picture.exif if picture else None
    if kind == "PNG":
        options["pnginfo"] = _png_text(settings, parameters)
    elif text := settings_text(settings, parameters):
        exif = with_comment(exif, text)
    if kind == "JPEG" and exif and len(exif) > MAX_EXIF:
        exif = with_comment(None, settings_text(settings, parameters))
    if exif and kind != "BMP":
        options["exif"] = exif
    options |= {
        "PNG": {"compress_level": 4},  # three times as fast as 6, and as small
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
    }.get(kind, {})
    try:
        image.save(out, kind, **options)
    except ValueError as error:
        raise ImageError(
            f"The picture cannot be stored as {kind} ({_reason(error)}).", "Try .png."
        ) from error


# --------------------------------------------------------------------------------------------- settings


def settings_text(settings: Mapping[str, Any] | None, parameters: str = "") -> str:
    """Parameters and settings as one text, the settings as a quoted last field that AUTOMATIC1111 can parse.

    Commas and colons are escaped within the quotes, since simple readers split at them.
    """
    if settings is None:
        return parameters
    quoted = json.dumps(json.dumps(settings)).replace(",", "\\u002c").replace(":", "\\u003a")
    return f"{parameters}{', ' if parameters else ''}diffedit: {quoted}"


def _settings_in(text: str) -> dict[str, Any] | None:
    """The settings in a text that settings_text made, or None."""
    begin = text.rfind(MARK)
    if begin < 0:
        return None
    try:
        inner, _ = json.JSONDecoder().raw_decode(text, begin + len(MARK) - 1)
        return _as_dict(inner)
    except ValueError:
        return None


def _as_dict(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _png_text(settings: Mapping[str, Any] | None, parameters: str) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    if parameters:
        chunks.add_text("parameters", parameters.encode("utf-8", "replace").decode())
    if settings is not None:
        chunks.add_itxt("diffedit", json.dumps(settings))
    return chunks


def with_comment(exif: bytes | None, text: str) -> bytes:
    """EXIF with the text as its UserComment, in UTF-16 as AUTOMATIC1111 writes it."""
    new = Image.Exif()
    new.load(exif or b"")
    entries = dict(new.get_ifd(IFD.Exif))
    entries[Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be", "replace")
    new[IFD.Exif] = entries
    return new.tobytes()


def _comment_text(comment: Any) -> str:
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return ""
    return comment[8:].decode("utf-16-be", "replace")


def read_settings(source: Source) -> dict[str, Any] | None:
    """The settings that save_image stored in a PNG, JPEG, WebP or TIFF, or None. ImageError: no picture."""
    with _opened(source) as (image, _, _):
        if isinstance(text := image.info.get("diffedit"), str):
            return _as_dict(text)
        if isinstance(comment := image.info.get("comment"), bytes):  # an animated GIF's
            return _settings_in(comment.decode("utf-8", "replace"))
        if "exif" not in image.info and image.format == "PNG":
            return None
        return _settings_in(_comment_text(image.getexif().get_ifd(IFD.Exif).get(Base.UserComment)))


# -------------------------------------------------------------------------------------- pictures to look at

_HEAT = "000004 280b54 65156e 9f2a63 d44842 f57d15 fac127 fcffa4"
_TINT = (255, 0, 170)


def heat_to_image(heat: Image.Image) -> Image.Image:
    """A heat map (mode L) in colours: black, violet, red, orange, pale yellow (like 'inferno')."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _HEAT.split()])
    places = np.linspace(0, 255, len(anchors))
    palette = np.stack([np.interp(np.arange(256), places, band) for band in anchors.T], axis=1)
    coloured = heat.copy()
    coloured.putpalette(palette.round().astype(np.uint8).tobytes())
    return coloured.convert("RGB")


def overlay(rgb: Image.Image, mask: Image.Image) -> Image.Image:
    """The mask (L) tinted over the picture, with an outline in black and white that any background shows."""
    result = rgb.convert("RGB")
    result.paste(_TINT, mask=_levels(mask, lambda value: value * 2 // 5))
    inside = _levels(mask, lambda value: 255 * (value >= 128))
    near = inside.filter(ImageFilter.BoxBlur(max(1, round(max(rgb.size) / 400))))
    band = _levels(near, lambda value: 255 * (0 < value < 255))
    result.paste((255, 255, 255), mask=ImageChops.multiply(band, inside))
    result.paste((0, 0, 0), mask=ImageChops.multiply(band, ImageChops.invert(inside)))
    return result


def _levels(image: Image.Image, function: Callable[[int], int]) -> Image.Image:
    """A mode L image with each level mapped to another one."""
    return image.point([function(level) for level in range(256)])


def cutout(picture: Picture, mask: Image.Image) -> Image.Image:
    """RGBA at the picture's size: only what the mask covers; the rest is gone, not hidden."""
    alpha = ImageChops.multiply(mask, picture.alpha) if picture.alpha else mask
    result = Image.new("RGB", picture.rgb.size)
    result.paste(picture.rgb, mask=_levels(alpha, lambda value: 255 * (value > 0)))
    result.putalpha(alpha)
    return result


def grid(
    columns: Sequence[tuple[str, Image.Image]],
    *more: Sequence[tuple[str, Image.Image]],
    side: int = 384,
) -> Image.Image:
    """Pictures beside each other on white, each under its label; each further argument is one more row.

    Every picture is scaled to fit `side` x `side` pixels; all cells have the size of the largest.
    """
    gap, letter = max(4, side // 32), max(12, side // 20)
    font = ImageFont.load_default(letter)
    rows = [[(label, _shown(image, side)) for label, image in row] for row in (columns, *more)]
    images = [image for row in rows for _, image in row]
    width, height = max(image.width for image in images), max(image.height for image in images)
    width = max(width, side // 2)
    labels = [[_wrapped(label, font, width) for label, _ in row] for row in rows]
    line = round(letter * 1.3)
    heads = [max(len(label) for label in row) * line for row in labels]
    total = (max(map(len, rows)) * (width + gap) + gap, sum(heads) + len(rows) * (height + 2 * gap) + gap)
    sheet = Image.new("RGB", total, "white")
    draw, y = ImageDraw.Draw(sheet), gap
    for row, texts, head in zip(rows, labels, heads, strict=True):
        for column, ((_, image), text) in enumerate(zip(row, texts, strict=True)):
            x = gap + column * (width + gap)
            for number, words in enumerate(text):
                draw.text((x, y + head - (len(text) - number) * line), words, "black", font)
            middle = x + (width - image.width) // 2, y + head + gap // 2 + (height - image.height) // 2
            sheet.paste(image, middle)
        y += head + height + 2 * gap
    return sheet


def _shown(image: Image.Image, side: int) -> Image.Image:
    """An image as RGB, scaled to fit a square; transparency over light grey."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    if "A" not in image.getbands():
        return image.convert("RGB")
    ground = Image.new("RGB", size, (225, 225, 225))
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground


def _wrapped(label: str, font: Any, width: int) -> list[str]:
    """A label as lines that fit the width; a word that is too long is cut."""
    lines = [""]
    for word in label.split():
        while len(word) > 1 and font.getlength(word) > width:
            word = word[:-2] + "\N{HORIZONTAL ELLIPSIS}"
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
