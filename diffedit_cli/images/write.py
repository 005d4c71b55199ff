"""Writing picture files: the one way out. Writing is all or nothing (`atomic_path`)."""

import contextlib
import functools
import io
import os
import secrets
import stat
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import ImageError, SettingError
from .colour import to_srgb
from .metadata import Extras, lost_in, options_for
from .read import Picture, reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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
NO_PROFILE = ("BMP",)
# How pixels are stored. Each is named, or Pillow would take what the input's file had.
ENCODING: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},  # three times as fast as 6, and as small
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "raw"},
    "BMP": {},
}
MIN_AGE = 60  # seconds that an unfinished file must be old before it is taken for abandoned
MAX_NAME = 255  # bytes of a file's name


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
    read-only, the file exists, or with `overwrite` it is no regular file. A link is followed.
    """
    target = Path(path)
    if target.suffix.lower() not in known:
        raise SettingError(f"{target} does not end in a known format.", f"Use one of {', '.join(known)}.")
    if picture is not None:
        _check_format(target, picture.rgb.size, picture.alpha)
    if len(os.fsencode(target.name)) > MAX_NAME:
        raise ImageError(f"The name {target.name[:40]}... is too long.", "Give a shorter one with -o.")
    if target.is_symlink() and overwrite:
        target = Path(os.path.realpath(target))
    folder = target.parent
    if not folder.is_dir():
        raise ImageError(f"The folder of {target} does not exist.", "Create it first.")
    if not os.access(folder, os.W_OK):
        raise ImageError(f"The folder of {target} is read-only.", "Choose another one with -o.")
    if target.is_dir():
        raise ImageError(f"{target} is a folder.", "Give the name of a file.")
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    if target.exists() and not target.is_file():
        raise ImageError(f"{target} is not a regular file.", "Give the name of a picture file.")


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
    return ImageError(f"{target} already exists.", "Choose another name, or add --overwrite.")


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

    An RGB image is given the alpha of `picture`, a coloured one its ICC profile, and any image its EXIF and
    `extras`, as far as the format holds them (`losses` says what it does not); of `image.info` nothing is
    stored. A BMP holds no profile and is converted to sRGB. `settings` (plain values) and `parameters` (text
    as AUTOMATIC1111 writes it) are stored: in PNG as the text chunks 'diffedit' (JSON) and 'parameters', else
    in the EXIF UserComment; BMP has no place for them. All formats but JPEG (quality 95, 4:4:4) are lossless.
    Raises what check_target raises, and ImageError if writing fails; then nothing is left behind.
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

    After any exception, including KeyboardInterrupt, the new file is removed and an old target is as it was.
    Without `overwrite` the name is claimed exclusively: of two simultaneous runs, one gets an ImageError.
    With it, the file that a link points to is replaced, and the old file's mode is kept. Files that killed
    runs left in the folder are removed.
    """
    if overwrite and target.is_symlink():
        target = Path(os.path.realpath(target))
    sweep(target.parent)
    part = target.with_name(f".diffedit-{secrets.token_hex(6)}.part")
    try:
        with _locked(part):
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            if overwrite and target.exists():
                os.chmod(part, stat.S_IMODE(target.stat().st_mode))
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


@contextlib.contextmanager
def _locked(part: Path) -> Generator[None, None, None]:
    """Create the file and hold its lock, which the system releases only when the process ends."""
    with open(part, "xb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@functools.cache  # once a run
def sweep(folder: Path) -> None:
    """Remove the unfinished files of runs that were killed; those of running ones are locked."""
    if fcntl is None:
        return
    for part in folder.glob(".diffedit-*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > MIN_AGE:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


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
    is_colour, icc = image.mode in ("RGB", "RGBA"), picture.icc if picture else None
    if is_colour and icc and kind in NO_PROFILE:
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        image = to_srgb(image.convert("RGB"), icc)
        if alpha:
            image.putalpha(alpha)
    alpha = picture.alpha if picture and image.mode == "RGB" else None
    if alpha is not None and kind not in OPAQUE:
        image = image.convert("RGBA")
        image.putalpha(alpha)
    elif image.mode == "RGBA" and kind in OPAQUE:
        image = image.convert("RGB")  # opaque: _check_format has seen to it
    if image.info or type(image) is not Image.Image:
        image = image.copy()
        image.info = {}
    exif, extras = (picture.exif, picture.extras) if picture else (None, Extras())
    options = {**ENCODING[kind], "icc_profile": icc if is_colour and kind not in NO_PROFILE else None}
    options |= options_for(kind, exif, extras, settings, parameters)
    try:
        image.save(out, kind, **options)
    except ValueError as error:
        raise ImageError(f"The picture cannot be stored as {kind} ({reason(error)}).", "Try .png.") from error


def is_lossless(path: str | os.PathLike[str]) -> bool:
    """Whether a picture file of this name keeps every pixel as it is: every format except JPEG."""
    return WRITE_FORMATS.get(Path(path).suffix.lower()) != "JPEG"


def losses(path: str | os.PathLike[str], picture: Picture) -> tuple[str, ...]:
    """Sentences about what a file of this name cannot keep of the picture besides its pixels."""
    name, kind = Path(path).name, WRITE_FORMATS.get(Path(path).suffix.lower(), "")
    notices: list[str] = []
    if picture.icc and kind in NO_PROFILE:
        notices.append(f"{name} cannot hold the colour profile, so the picture is converted to sRGB.")
    if lost := lost_in(kind, picture.exif, picture.extras):
        notices.append(f"{name} cannot hold {', '.join(lost)} of {picture.name}.")
    return tuple(notices)
