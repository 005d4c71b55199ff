"""Writing picture files: the one way out. Writing is all or nothing (`atomic_path`)."""

import contextlib
import io
import os
import secrets
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import ImageError, SettingError
from .metadata import png_text, settings_text, with_comment
from .read import Picture, reason

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
MAX_EXIF = 65_500  # bytes that fit a JPEG


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
        raise SettingError(f"{target} does not end in a known format.", f"Known are: {', '.join(known)}.")
    if picture is not None:
        _check_format(target, picture.rgb.size, picture.alpha)
    folder = target.parent
    if not folder.is_dir():
        raise ImageError(f"The folder of {target} does not exist.", "Make it first.")
    if not os.access(folder, os.W_OK):
        raise ImageError(f"The folder of {target} is read-only.", "Choose another one with -o.")
    if target.is_dir():
        raise ImageError(f"{target} is a folder.", "Give the name of a file.")
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)


def _check_format(target: Path, size: tuple[int, int], alpha: Image.Image | None) -> None:
    kind = WRITE_FORMATS.get(target.suffix.lower(), "")
    if alpha is not None and kind in OPAQUE and alpha.getextrema() != (255, 255):
        raise SettingError(
            f"{target} would lose the picture's transparency.", "Write a .png, .webp or .tiff instead."
        )
    if max(size) > MAX_SIDE.get(kind, max(size)):
        raise SettingError(
            f"{target} can have {MAX_SIDE[kind]} pixels a side, and the picture has {max(size)}.",
            "Write a .png or .tiff instead.",
        )


def _exists(target: Path) -> ImageError:
    return ImageError(f"{target} exists already.", "Choose another name, or add --overwrite.")


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
            f"{target} cannot be written ({reason(error)}).",
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
        options["pnginfo"] = png_text(settings, parameters)
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
        raise ImageError(f"The picture cannot be stored as {kind} ({reason(error)}).", "Try .png.") from error
