"""A film as a GIF: one palette for the whole film, and error diffusion that does not make still areas
flicker."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from .metadata import settings_text

COLOURS = 255  # the 256th says 'as in the frame before', which keeps still areas small
SAMPLES = 16  # frames, spread over the film, that the palette is made of
SIDE = 256  # pixels that each is scaled to for that
Colour = tuple[int, int, int]
_PLACES = np.array([65536, 256, 1])  # of red, green and blue in one number
STILL = 2  # levels; a pixel that has moved by no more keeps its colour, or the diffusion would flicker


def write_gif(
    frames: Iterator[Image.Image], part: Path, fps: int, loop: bool, settings: Mapping[str, Any] | None
) -> None:
    """Write RGB frames of one size; all are held in memory, as indices of the palette.

    With COLOURS colours or fewer in the whole film every pixel is as it was.
    """
    held = list(frames)
    colours = _few_colours(held)
    palette = _sheet(held).quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=1) if colours is None else None
    first, *rest = _indexed(held, palette) if palette else _exact(held, colours or [])
    ends = [round(100 * (number + 1) / fps) * 10 for number in range(len(held))]  # a gif counts in 10 ms
    options: dict[str, Any] = {"loop": 0} if loop else {}
    if settings is not None:
        options["comment"] = settings_text(settings).encode()
    first.save(
        part,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=[end - begin for begin, end in zip([0, *ends], ends, strict=False)],
        disposal=1,
        optimize=True,
        **cast(Any, options),
    )


def _few_colours(frames: list[Image.Image]) -> list[Colour] | None:
    """All colours of the film in order, if there are at most COLOURS."""
    found: set[Colour] = set()
    for frame in frames:
        colours = frame.getcolors(COLOURS)
        found |= {cast(Colour, colour) for _, colour in colours or ()}
        if colours is None or len(found) > COLOURS:
            return None
    return sorted(found)


def _exact(frames: list[Image.Image], colours: list[Colour]) -> Iterator[Image.Image]:
    """The frames as indices of these colours. (Pillow's quantize looks for near ones.)"""
    table = np.array(colours) @ _PLACES
    for frame in frames:
        indices = np.searchsorted(table, np.asarray(frame) @ _PLACES).astype(np.uint8)
        yield _with_palette(indices, [level for colour in colours for level in colour])


def _sheet(frames: list[Image.Image]) -> Image.Image:
    """Up to SAMPLES frames below each other, each scaled to SIDE."""
    count = min(SAMPLES, len(frames))
    chosen = [frames[len(frames) * number // count] for number in range(count)]
    width, height = frames[0].size
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (size[0], size[1] * count))
    for row, frame in enumerate(chosen):
        sheet.paste(frame.resize(size), (0, row * size[1]))
    return sheet


def _indexed(frames: list[Image.Image], palette: Image.Image) -> Iterator[Image.Image]:
    """The frames in the palette's colours. Still areas keep their indices from frame to frame."""
    seen = indices = None  # the colour that each pixel had when its index was chosen, and the index
    for frame in frames:
        pixels = np.asarray(frame)
        own = np.asarray(frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
        if seen is None or indices is None:
            seen, indices = pixels.copy(), own.copy()
        else:
            moved = np.abs(pixels.astype(np.int16) - seen).max(axis=2) > STILL
            seen[moved], indices[moved] = pixels[moved], own[moved]
        yield _with_palette(indices.copy(), palette.getpalette() or [])


def _with_palette(indices: np.ndarray, palette: list[int]) -> Image.Image:
    shown = Image.fromarray(indices, "P")
    shown.putpalette(palette)
    return shown
