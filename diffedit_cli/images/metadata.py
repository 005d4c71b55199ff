"""What is stored beside the pixels: settings as text, in PNG chunks or in the EXIF UserComment."""

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

MARK = 'diffedit: "'


def settings_text(settings: Mapping[str, Any] | None, parameters: str = "") -> str:
    """Parameters and settings as one text, the settings as a quoted last field that AUTOMATIC1111 can parse.

    Commas and colons are escaped within the quotes, since simple readers split at them.
    """
    if settings is None:
        return parameters
    quoted = json.dumps(json.dumps(settings)).replace(",", "\\u002c").replace(":", "\\u003a")
    return f"{parameters}{', ' if parameters else ''}diffedit: {quoted}"


def settings_in(text: str) -> dict[str, Any] | None:
    """The settings in a text that settings_text made, or None."""
    begin = text.rfind(MARK)
    if begin < 0:
        return None
    try:
        inner, _ = json.JSONDecoder().raw_decode(text, begin + len(MARK) - 1)
        return as_dict(inner)
    except ValueError:
        return None


def as_dict(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def png_text(settings: Mapping[str, Any] | None, parameters: str) -> PngImagePlugin.PngInfo:
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


def comment_text(comment: Any) -> str:
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return ""
    return comment[8:].decode("utf-16-be", "replace")
