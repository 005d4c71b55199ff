"""Colour spaces: profiles read, made and applied, between a picture's own space and sRGB."""

import io
import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

Curve = tuple[float, ...]  # parameters of an ICC curve: (g,) is x^g, (g, a, b, c, d) has a linear foot
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_XY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue

# The code points of ITU-T H.273, which PNG's cICP and the boxes of AVIF and HEIC use.
PRIMARIES = {
    1: SRGB_XY,
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
CURVES: dict[int, Curve] = {  # viewers show the curve of BT.709 (1, 6, 14, 15) as that of sRGB
    **dict.fromkeys((1, 6, 13, 14, 15), SRGB_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
}

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def read_profile(icc: bytes | None) -> tuple[ImageCms.ImageCmsProfile | None, str]:
    """An ICC profile, and the colour space that it describes ('' if there is none or it is broken)."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)) if icc else None
        return profile, cast(Any, profile.profile).xcolor_space.strip() if profile else ""
    except Exception:
        return None, ""


def convert(
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


def to_srgb(rgb: Image.Image, icc: bytes | None, *, back: bool = False) -> Image.Image:
    """From the profile's space to sRGB, or back. A profile that cannot do both is treated as sRGB."""
    profile, _ = read_profile(icc)
    if profile is None:
        return rgb
    try:
        there, here = convert(rgb, profile, SRGB), convert(rgb, SRGB, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return rgb
    return here if back else there


def profile_of_png(gamma: float | None, chromaticity: Sequence[float] | None) -> bytes | None:
    """The colours that PNG's gAMA and cHRM describe as an ICC profile.

    gamma: as in the file, 1/2.2 for most. chromaticity: x and y of white, red, green and blue. None: they are
    those of sRGB, or make no sense.
    """
    is_usual = gamma is None or abs(gamma - 1 / 2.2) < 0.005
    xy = chromaticity or SRGB_XY
    if is_usual and np.abs(np.subtract(xy, SRGB_XY)).max() < 0.002:
        return None
    if gamma is not None and not 0.1 <= gamma <= 10:
        return None
    return matrix_profile(xy, SRGB_CURVE if gamma is None else (1 / gamma,))


def profile_of_codes(primaries: int, transfer: int) -> bytes | None:
    """The colours of two H.273 code points as an ICC profile; None: sRGB, or none that has a profile."""
    xy, curve = PRIMARIES.get(primaries), CURVES.get(transfer)
    if xy is None or curve is None or (xy is SRGB_XY and curve is SRGB_CURVE):
        return None
    return matrix_profile(xy, curve)


def matrix_profile(xy: Sequence[float], curve: Curve) -> bytes | None:
    """An ICC profile (ICC.1:2010, version 4.3) of three primaries and one curve; None if it cannot be made.

    xy: chromaticities of white, red, green and blue. The primaries are adapted to D50 by Bradford's matrix.
    """
    places = np.array(xy, float).reshape(4, 2)
    if not np.isfinite(places).all() or (places[:, 1] <= 1e-4).any():
        return None
    xyz = np.stack([places[:, 0], places[:, 1], 1 - places.sum(1)], 1) / places[:, 1:]
    white, primaries = xyz[0], xyz[1:].T
    if abs(np.linalg.det(primaries)) < 1e-6:
        return None
    cones = _BRADFORD @ _D50 / (_BRADFORD @ white)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    columns = (adapt @ (primaries * np.linalg.solve(primaries, white))).T
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        return None
    kind = 0 if len(curve) == 1 else 3
    trc = struct.pack(f">4s4xHH{len(curve)}i", b"para", kind, 0, *map(_fixed, curve))
    tags = {b"desc": _text("diffedit"), b"cprt": _text("No copyright"), b"wtpt": _xyz(_D50)}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return _assembled(tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc))


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(_fixed(float(value)) for value in values))


def _text(text: str) -> bytes:
    coded = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(coded), 28) + coded


def _assembled(tags: dict[bytes, bytes]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data.ljust(-4 * (-len(data) // 4), b"\0")
    kinds = struct.pack(">I4x I4s4s4s", start + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    date = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    header = kinds + date + b"acsp" + bytes(28) + struct.pack(">3i", *map(_fixed, _D50))
    return header.ljust(128, b"\0") + table + body
