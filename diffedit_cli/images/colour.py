"""Colour profiles: between a picture's own space and sRGB."""

import io
from typing import Any, cast

from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


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
    """From the profile's space to sRGB, or back. A profile that cannot do both ways is taken for sRGB."""
    profile, _ = read_profile(icc)
    if profile is None:
        return rgb
    try:
        there, here = convert(rgb, profile, SRGB), convert(rgb, SRGB, profile)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return rgb
    return here if back else there
