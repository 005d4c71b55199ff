"""Pictures to look at: heat maps, overlays, cut-outs and labelled grids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from .colour import to_srgb
from .pixels import levels
from .read import Picture

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


def shown(picture: Picture, rgb: Image.Image | None = None) -> Image.Image:
    """A picture, or other pixels in its colour space, as displayed: sRGB, light grey where transparent."""
    return flat(to_srgb(picture.rgb if rgb is None else rgb, picture.icc), picture.alpha)


def overlay(picture: Picture, mask: Image.Image) -> Image.Image:
    """The mask (L) tinted over the picture, with an outline in black and white that any background shows.

    RGB, sRGB, and transparent areas over light grey, so it can be saved as it is.
    """
    rgb = shown(picture)
    result = rgb.copy()
    result.paste(_TINT, mask=levels(mask, lambda value: value * 2 // 5))
    inside = levels(mask, lambda value: 255 * (value >= 128))
    near = inside.filter(ImageFilter.BoxBlur(max(1, round(max(rgb.size) / 400))))
    band = levels(near, lambda value: 255 * (0 < value < 255))
    result.paste((255, 255, 255), mask=ImageChops.multiply(band, inside))
    result.paste((0, 0, 0), mask=ImageChops.multiply(band, ImageChops.invert(inside)))
    return result


def cutout(picture: Picture, mask: Image.Image) -> Image.Image:
    """RGBA at the picture's size: only what the mask covers; the rest is removed, not just hidden.

    The pixels are those of the picture's colour space: save it with `save_image(..., picture=picture)`. Its
    `info` holds the profile for Pillow's own save.
    """
    alpha = ImageChops.multiply(mask, picture.alpha) if picture.alpha else mask
    result = Image.new("RGB", picture.rgb.size)
    result.paste(picture.rgb, mask=levels(alpha, lambda value: 255 * (value > 0)))
    result.putalpha(alpha)
    result.info = {"icc_profile": picture.icc} if picture.icc else {}
    return result


def grid(
    columns: Sequence[tuple[str, Image.Image]],
    *more: Sequence[tuple[str, Image.Image]],
    side: int = 384,
) -> Image.Image:
    """Pictures next to each other on white, each under its label; each further argument is one more row.

    Every picture is scaled to fit `side` x `side` pixels; all cells have the size of the largest.
    """
    gap, letter = max(4, side // 32), max(12, side // 20)
    font = ImageFont.load_default(letter)
    rows = [[(label, _scaled(image, side)) for label, image in row] for row in (columns, *more)]
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


def _scaled(image: Image.Image, side: int) -> Image.Image:
    """An image as RGB, scaled to fit a square; transparency over light grey."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    return flat(image.convert("RGB"), image.getchannel("A") if "A" in image.getbands() else None)


def flat(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """RGB with transparent parts over light grey."""
    if alpha is None:
        return rgb
    ground = Image.new("RGB", rgb.size, (225, 225, 225))
    ground.paste(rgb, mask=alpha)
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
