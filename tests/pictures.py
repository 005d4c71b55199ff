"""Small pictures for the tests of diffedit_cli/images/."""

import functools
import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from diffedit_cli.images.read import Picture, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(width: int, height: int, bands: int = 3, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if bands == 1 else values)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(image: Image.Image, kind: str = "PNG", **options: Any) -> Picture:
    return load_image(encoded(image, kind, **options))


def same(a: Image.Image | None, b: Image.Image | None) -> bool:
    return (
        a is not None
        and b is not None
        and a.mode == b.mode
        and a.size == b.size
        and a.tobytes() == b.tobytes()
    )


def alike(a: Any, b: Any) -> bool:
    """Whether two pictures differ by rounding alone, as those of another batch or number of threads do.

    The order of a sum in float32 moves one value in 500 by a level of 255, and now and then one by two.
    """
    difference = np.abs(np.asarray(a, int) - np.asarray(b, int))
    return bool(difference.max() <= 3 and difference.mean() <= 0.05)


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(value, box)
    return mask


@functools.cache  # a profile holds the second of its making
def swapped_profile() -> bytes:
    """sRGB with red and green exchanged: the pixel (255, 0, 0) is a green one."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC profile, version 2.1."""
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data.ljust(-4 * (-len(data) // 4), b"\0")
    header = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"lcms", 0x02100000, kind, space, pcs, bytes(12), b"acsp"
    )
    header = (header + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return header + table + body


def grey_profile() -> bytes:
    """A grey profile whose values are proportional to light."""
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    curve = struct.pack(">4s4xI", b"curv", 0)
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": curve})


def ink_profile() -> bytes:
    """A CMYK profile of a press that prints cyan as red; any other ink is black."""
    white, red, black = (255, 128, 128), (136, 208, 195), (0, 128, 128)  # CIELAB in 8 bits
    corners = [white] + [black] * 15
    corners[0b1000] = red  # of the cube of inks; the first one changes slowest
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp, cube = bytes(range(256)), bytes(value for corner in corners for value in corner)
    table = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0) + identity + 4 * ramp + cube + 3 * ramp
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
