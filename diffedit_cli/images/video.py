"""Frames to a film: mp4, gif, animated webp, or a folder of numbered PNG files.

PyAV is imported only when an mp4 is written or read: it would slow down every start.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from ..errors import ImageError, SettingError
from .gif import write_gif
from .metadata import settings_text, with_comment
from .read import load_image, read_settings
from .write import atomic_path, check_target, save_image

SUFFIXES = (".mp4", ".gif", ".webp")
MAX_FPS = 120
MAX_SIDE = {".mp4": 16_384, ".webp": 16_383, ".gif": 65_535}  # pixels, of the codec

BT709, TV_RANGE = 1, 1  # FFmpeg's numbers

_FRAME = re.compile(r"frame_(\d{4,})\.png")


def write_frames(
    frames: Iterable[Image.Image],
    target: Path,
    *,
    fps: int,
    loop: bool = True,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    first: int | None = None,
) -> None:
    """Write RGB frames of one size, as they come, in the format that the suffix names.

    .mp4   H.264 that browsers play; a frame of odd size gets its last row or column twice. Frames are encoded
           one by one and never held together. (A player decides whether it loops.)
    .gif   one palette made from all frames (see gif.py). The frames are held in memory.
    .webp  animated, quality 90. The frames are held in memory.
    no suffix, or a folder: frame_0000.png, frame_0001.png, ...

    A file appears only when it is complete: after Ctrl-C or any other error none is left, and an old one is
    as it was. A folder keeps its finished frames. To resume it, pass the missing frames, and the number of
    the first one as `first` (see next_missing). Frames of an older film are removed when the first new one
    has been written, so a folder never holds frames of two films; if several runs write films into one new
    folder, one succeeds. Settings are stored in the file, in a folder in every frame (read_film_settings
    finds them). Raises what check_film raises, and ImageError if there are no frames or writing fails.
    """
    target = Path(target)
    replaces = overwrite or first is not None
    check_film(target, fps=fps, overwrite=replaces)
    numbered = iter(frames)
    if (start := next(numbered, None)) is None:
        raise ImageError("There are no frames to write.", "Ask for at least one.")
    check_film(target, fps=fps, overwrite=replaces, size=start.size)
    numbered = _alike(itertools.chain([start], numbered))
    if _is_folder(target):
        _write_folder(numbered, target, settings, first or 0, overwrite=replaces)
        return
    write = {".mp4": _write_mp4, ".gif": write_gif, ".webp": _write_webp}[target.suffix.lower()]
    with atomic_path(target, overwrite=overwrite) as part:
        write(numbered, part, fps, loop, settings)


def check_film(target: Path, *, fps: int, overwrite: bool, size: tuple[int, int] | None = None) -> None:
    """Refuse, before the long work, a target that could not be written after it.

    size: of a frame, where it is known. SettingError: an unknown suffix, frames a second out of 1 to MAX_FPS,
    or a frame larger than the codec allows. ImageError: the file exists, the folder holds frames, or the
    folder around it is missing or read-only.
    """
    if not 1 <= fps <= MAX_FPS:
        raise SettingError(f"--fps {fps} is out of range.", f"Give a value from 1 to {MAX_FPS}.")
    most = MAX_SIDE.get(target.suffix.lower())
    if size and most and max(size) > most and not _is_folder(target):
        raise SettingError(
            f"{target} can have {most} pixels a side, and a frame has {max(size)}.",
            "Name a folder instead, for frames as PNG.",
        )
    if not _is_folder(target):
        check_target(target, overwrite=overwrite, known=SUFFIXES)
    elif not target.is_dir():
        check_target(target, overwrite=overwrite, known=[target.suffix.lower()])
    elif _numbers(target) and not overwrite:
        raise ImageError(f"{target} already holds frames.", "Choose another name, or add --overwrite.")


def next_missing(folder: Path) -> int:
    """The number of the first frame that is missing or damaged in a folder; 0 if there is no folder.

    A frame whose settings differ from those of the first belongs to another film and counts as missing.
    """
    film: dict[str, Any] | None = None
    for number in itertools.count():
        path = frame_path(folder, number)
        try:
            load_image(path)
            stored = read_settings(path)
        except ImageError:
            return number
        stored = stored and {**stored, "diffedit": ""}  # a newer version may have gone on
        film = stored if number == 0 else film
        if stored != film:
            return number
    raise AssertionError


def read_film_settings(target: Path) -> dict[str, Any] | None:
    """The settings that write_frames stored in a film or a folder, or None. ImageError: it is unreadable."""
    if target.is_dir():
        return read_settings(frame_path(target, 0))
    if target.suffix.lower() != ".mp4":
        return read_settings(target)
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(target)) as film:
            comment = film.metadata.get("comment", "")
    except (OSError, FFmpegError) as error:
        raise ImageError(f"{target} cannot be read as a film.", "Check the path.") from error
    try:
        stored = json.loads(comment)
    except ValueError:
        return None
    return stored if isinstance(stored, dict) else None


def _is_folder(target: Path) -> bool:
    return not target.suffix or target.is_dir()


def frame_path(folder: Path, number: int) -> Path:
    return folder / f"frame_{number:04d}.png"


def _numbers(folder: Path) -> list[int]:
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _FRAME.fullmatch(path.name)))


def _alike(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The frames as RGB; one of another size than the first is refused."""
    size = None
    for frame in frames:
        size = size or frame.size
        if frame.size != size:
            raise ImageError(f"A frame has the size {frame.size}, the first one {size}.", "Use one size.")
        yield frame.convert("RGB")


def _write_folder(
    frames: Iterable[Image.Image],
    folder: Path,
    settings: Mapping[str, Any] | None,
    first: int,
    *,
    overwrite: bool,
) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    for number, frame in enumerate(frames, first):
        save_image(frame_path(folder, number), frame, settings=settings, overwrite=overwrite)
        if number == first and overwrite:
            for stale in _numbers(folder):
                if stale > first:  # it would be played as part of this film
                    frame_path(folder, stale).unlink(missing_ok=True)


def _write_mp4(
    frames: Iterator[Image.Image], part: Path, fps: int, loop: bool, settings: Mapping[str, Any] | None
) -> None:
    try:
        import av
    except ImportError as error:
        raise ImageError("An .mp4 needs PyAV, which is not installed.", "Run: pip install av") from error
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as film:
        if settings is not None:
            film.metadata["comment"] = json.dumps(settings)
        stream = cast(Any, film.add_stream("libx264", rate=fps, options={"crf": "18"}))
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context  # said in the file, or players guess the colours from the size
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = TV_RANGE
        for frame in frames:
            odd = frame.width % 2, frame.height % 2
            if not context.is_open:
                stream.width, stream.height = frame.width + odd[0], frame.height + odd[1]
            pixels = np.pad(np.asarray(frame), ((0, odd[1]), (0, odd[0]), (0, 0)), "edge")
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            film.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=BT709)))
        film.mux(stream.encode(None))


def _write_webp(
    frames: Iterator[Image.Image], part: Path, fps: int, loop: bool, settings: Mapping[str, Any] | None
) -> None:
    options = {} if settings is None else {"exif": with_comment(None, settings_text(settings))}
    first = next(frames)
    first.save(
        part,
        "WEBP",
        save_all=True,
        append_images=frames,
        duration=1000 / fps,
        loop=0 if loop else 1,
        quality=90,
        **cast(Any, options),
    )
