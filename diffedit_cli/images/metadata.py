"""What is stored besides the pixels: settings as text, and what a picture's own file says about it."""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

from .headers import HDR_NAMES, Header

MARK = 'diffedit: "'
MAX_EXIF = 65_500  # bytes of EXIF, and of XMP with its name, that fit a JPEG
MAX_XMP = 65_000
MAX_KEPT = 2**20  # bytes of EXIF that are kept in any format

XMP = "XML:com.adobe.xmp"
IPTC = "Raw profile type iptc"  # a PNG's, as ImageMagick and ExifTool write it
# Texts of a PNG that people write. Others are about how the picture was made, which is no longer true.
TEXTS = ("Title", "Author", "Description", "Copyright", "Creation Time", "Disclaimer", "Source", "Comment")
OWN = ("diffedit", "parameters")

# Tags of the main EXIF directory that say something about the photo. The others describe how the old file
# stored its pixels (a TIFF keeps them in the same directory) and would be wrong in a new one.
_KEPT_TAGS = (
    {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 318, 319, 33432, 0x4746, 0x4749}
    | set(range(0x9C9B, 0x9CA0))
)  # fmt: skip
_XMP_TAG, _IPTC_TAG, _IPTC_BLOCK = 700, 33723, 0x0404


@dataclass(frozen=True)
class Extras:
    """What a file says about its picture besides colours and EXIF; a result keeps it where it can.

    dpi: across and down. texts: (name, text) of a PNG, and a JPEG's comment as "Comment". chunks: PNG's sRGB,
    and cICP where no profile says the same.
    """

    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()


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


# ------------------------------------------------------------------------------------------------- reading


def read_exif(image: Image.Image) -> bytes | None:
    """The EXIF without orientation, thumbnail, and what an earlier run of this program stored."""
    try:
        old, new = image.getexif(), Image.Exif()
        if len(image.info.get("exif") or b"") > MAX_KEPT:
            return None
        for tag in _KEPT_TAGS & set(old):
            if not _is_long(value := old[tag]):
                new[tag] = value
        for group in (IFD.Exif, IFD.GPSInfo):
            entries = {tag: value for tag, value in old.get_ifd(group).items() if not _is_long(value)}
            if settings_in(comment_text(entries.get(Base.UserComment))):
                del entries[Base.UserComment]
            if IFD.Interop in entries:
                entries[IFD.Interop] = dict(old.get_ifd(IFD.Interop))
            if entries:
                new[group] = entries
        return new.tobytes() if len(new) else None
    except Exception:
        return None


def _is_long(value: Any) -> bool:
    return isinstance(value, (bytes, str, tuple)) and len(value) > MAX_KEPT


def read_extras(
    image: Image.Image, header: Header, name: str, notices: list[str], *, is_turned: bool
) -> Extras:
    """What a result keeps from a file, and notices about what it does not."""
    info = image.info
    xmp, has_gain_map = _xmp(info)
    if has_gain_map or any(b"urn:iso:std:iso:ts:21496" in body[:40] for _, body in _segments(image)):
        notices.append(f"{name} has an HDR gain map, which would not match the edit; the result has none.")
    if b"caBX" in header.chunks or any(app == "APP11" for app, _ in _segments(image)):
        notices.append(f"{name} has content credentials (C2PA), which would not be valid for an edit.")
    texts = {str(key): text for key, text in info.items() if isinstance(text, str)}
    gone = sorted(key for key in texts.keys() - {*TEXTS, *OWN, "Software", IPTC} if ":" not in key)
    if image.format == "PNG" and gone:  # a colon: what ImageMagick notes of every file, and XMP
        notices.append(f"{name} holds texts that the result does not keep: {', '.join(map(_short, gone))}.")
    if image.format != "PNG":
        texts = {"Comment": _comment(info)} if image.format in ("JPEG", "MPO", "GIF") else {}
    kept = tuple((key, texts[key]) for key in TEXTS if texts.get(key))
    if len(info.get("exif") or b"") > MAX_KEPT:
        header.dropped.add("block of EXIF")
    for what in sorted(header.dropped):
        notices.append(f"{name} has a {what} of more than 1 MB, which was left out.")
    dpi = _dpi(image)
    dpi = (dpi[1], dpi[0]) if dpi and is_turned else dpi
    return Extras(dpi, xmp, _iptc(image), kept, _colour_chunks(header))


def _colour_chunks(header: Header) -> tuple[tuple[bytes, bytes], ...]:
    chunks = header.chunks
    is_hdr = len(chunks.get(b"cICP", b"")) == 4 and chunks[b"cICP"][1] in HDR_NAMES
    return tuple((kind, chunks[kind]) for kind in (b"sRGB", b"cICP")[: 1 + is_hdr] if kind in chunks)


def _short(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:40])


def _segments(image: Image.Image) -> list[tuple[str, bytes]]:
    return getattr(image, "applist", [])


def _comment(info: Mapping[Any, Any]) -> str:
    comment = info.get("comment")
    text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else ""
    return "" if settings_in(text) or len(text) > MAX_XMP else text.strip("\0 \r\n")


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch across and down; 1 and 72 are what Pillow gives if the file does not say."""
    try:
        value = image.info.get("dpi") or _dpi_in(image.getexif()) or (1, 1)
        across, down = (float(part) for part in value)
    except Exception:  # damaged EXIF
        return None
    is_sound = all(math.isfinite(part) and 1 < part <= 100_000 for part in (across, down))
    return (across, down) if is_sound and (across, down) != (72, 72) else None


def _dpi_in(exif: Image.Exif) -> tuple[float, float] | None:
    across, down = exif.get(Base.XResolution), exif.get(Base.YResolution)
    inches = 2.54 if exif.get(Base.ResolutionUnit) == 3 else 1.0
    return None if across is None or down is None else (across * inches, down * inches)


def _xmp(info: Mapping[Any, Any]) -> tuple[bytes | None, bool]:
    """The XMP upright and without a gain map's description, and whether it had one."""
    xmp = info.get("xmp")
    if not isinstance(xmp, bytes) or len(xmp) > MAX_KEPT:
        return None, False
    upright = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", xmp)
    plain = re.sub(rb"\s+hdrgm:\w+\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", upright)
    plain = re.sub(rb"<(hdrgm:\w+|Container:Directory)\b.*?</\1>", b"", plain, flags=re.DOTALL)
    return plain, plain != upright


def _iptc(image: Image.Image) -> bytes | None:
    tags, blocks = getattr(image, "tag_v2", {}), image.info.get("photoshop", {})
    text, found = image.info.get(IPTC), blocks.get(_IPTC_BLOCK) or tags.get(_IPTC_TAG)
    if isinstance(found, tuple):  # some programs store bytes as numbers of 32 bits
        order = "<" if getattr(tags, "_endian", "<") == "<" else ">"
        found = struct.pack(f"{order}{len(found)}I", *found)
    if isinstance(text, str):
        try:
            found = bytes.fromhex("".join(text.split()[2:]))
        except ValueError:
            found = None
    return found if isinstance(found, bytes) and len(found) < MAX_XMP else None


# ------------------------------------------------------------------------------------------------- writing


def options_for(
    kind: str, exif: bytes | None, extras: Extras, settings: Mapping[str, Any] | None, parameters: str
) -> dict[str, Any]:
    """What Pillow stores besides the pixels in a file of this kind."""
    options: dict[str, Any] = {"dpi": extras.dpi} if extras.dpi and kind != "WEBP" else {}
    if kind == "BMP":
        return options
    if kind == "PNG":
        options["pnginfo"] = _png_chunks(extras, settings, parameters)
        return options | ({"exif": exif} if exif else {})
    if extras.dpi and kind == "WEBP":
        exif = _with_resolution(exif, extras.dpi)
    if text := settings_text(settings, parameters):
        exif = with_comment(exif, text)
    if kind == "TIFF":
        options["exif"] = _tiff_tags(exif, extras)
        return options
    if kind == "JPEG" and exif and len(exif) > MAX_EXIF:
        exif = with_comment(None, text) if text else None
    options |= {"exif": exif} if exif else {}
    if extras.xmp and (kind == "WEBP" or len(extras.xmp) <= MAX_XMP):
        options["xmp"] = extras.xmp
    if kind == "JPEG":
        options["comment"] = dict(extras.texts).get("Comment", "").encode()
        options |= {"extra": _photoshop_segment(extras.iptc)} if extras.iptc else {}
    return options


def lost_in(kind: str, exif: bytes | None, extras: Extras) -> list[str]:
    """What a file of this kind cannot hold of a picture."""
    lost = {
        "EXIF": exif and (kind == "BMP" or (kind == "JPEG" and len(exif) > MAX_EXIF)),
        "XMP": extras.xmp and (kind == "BMP" or (kind == "JPEG" and len(extras.xmp) > MAX_XMP)),
        "IPTC": extras.iptc and kind in ("BMP", "WEBP"),
    }
    names = [key for key, _ in extras.texts if kind != "PNG" and (key, kind) != ("Comment", "JPEG")]
    return [name for name, is_lost in lost.items() if is_lost] + [f"text {key}" for key in names]


def _png_chunks(
    extras: Extras, settings: Mapping[str, Any] | None, parameters: str
) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    if parameters:
        chunks.add_text("parameters", parameters.encode("utf-8", "replace").decode())
    if settings is not None:
        chunks.add_itxt("diffedit", json.dumps(settings))
    for kind, data in extras.chunks:
        chunks.add(kind, data)
    for key, text in extras.texts:
        chunks.add_text(key, text)
    if extras.xmp:
        chunks.add_itxt(XMP, extras.xmp.decode("utf-8", "replace"))
    if extras.iptc:
        lines = re.sub("(.{72})", r"\1\n", extras.iptc.hex())
        chunks.add_text(IPTC, f"\niptc\n{len(extras.iptc):8}\n{lines}\n", zip=True)
    return chunks


def _with_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    new = Image.Exif()
    new.load(exif or b"")
    if Base.XResolution not in new:
        new[Base.XResolution], new[Base.YResolution], new[Base.ResolutionUnit] = *dpi, 2
    return new.tobytes()


def _tiff_tags(exif: bytes | None, extras: Extras) -> Image.Exif:
    tags = Image.Exif()
    tags.load(exif or b"")
    if extras.xmp:
        tags[_XMP_TAG] = extras.xmp
    if extras.iptc:
        tags[_IPTC_TAG] = extras.iptc
    return tags


def _photoshop_segment(iptc: bytes) -> bytes:
    """IPTC, as the JPEG segment from which other programs read it."""
    block = b"8BIM" + struct.pack(">HHI", _IPTC_BLOCK, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
