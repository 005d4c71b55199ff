"""What a file says before anything is decoded: its size, its PNG chunks within bounds, its colour codes."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

MAX_CHUNK = 2**20  # bytes of a PNG's text or profile, decompressed; Pillow refuses a file that has more
MAX_TEXT = 2**25  # and of all of them
MAX_PROFILE = 2**22

PNG = b"\x89PNG\r\n\x1a\n"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HDR_NAMES = {16: "PQ", 18: "HLG"}  # transfer functions of H.273 that no profile describes
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_TYPE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SMALL = (b"sRGB", b"cICP", b"caBX")  # noted here, since Pillow does not


@dataclass
class Header:
    """What is known of a file beforehand.

    chunks: small chunks of a PNG. icc: a profile that Pillow would not read. codes: primaries and transfer
    (ITU-T H.273). dropped: what was left out because it is too long.
    """

    chunks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    icc: bytes | None = None
    codes: tuple[int, int] | None = None
    dropped: set[str] = field(default_factory=set[str])


@dataclass(frozen=True)
class Entry:
    """Of a TIFF's directory: where it is, its tag, how many bytes it stands for, its value or their place."""

    place: int
    tag: int
    size: int
    value: int


def is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS


def webp_size(start: bytes) -> tuple[int, int]:
    """Width and height in the first 30 bytes of a WebP; (0, 0): it is none.

    Pillow allocates the whole canvas as it opens one.
    """
    kind, body = start[12:16], start[20:30].ljust(10, b"\0")
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return tuple(int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))  # type: ignore[return-value]
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def examine(stream: BinaryIO) -> tuple[BinaryIO, Header]:
    """The header of a file, and the stream to decode: the same one, or a PNG without what is too long."""
    start = stream.read(32)
    header = Header()
    if start.startswith(PNG):
        stream = _without_long_chunks(stream, header)
    elif start[:2] in (b"II", b"MM"):
        stream = _without_long_exif(stream, header)
    elif start[4:8] in (b"ftyp", b"jP  "):
        stream.seek(0)
        header.icc, header.codes = colour_box(stream.read(2**20))
    stream.seek(0)
    return stream, header


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length in all of each chunk of a PNG, as far as they are whole."""
    place = len(PNG)
    stream.seek(0, io.SEEK_END)
    end = stream.tell()
    while place + 12 <= end:
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if place + 12 + length > end:
            return
        yield kind, place, length + 12
        place += length + 12


def _without_long_chunks(stream: BinaryIO, header: Header) -> BinaryIO:
    skipped: list[tuple[int, int]] = []
    room = MAX_TEXT
    for kind, place, length in _chunks(stream):
        if kind not in (*_TEXTS, *_SMALL, b"iCCP"):
            continue
        stream.seek(place + 8)
        data = stream.read(min(length - 12, MAX_PROFILE))
        if kind in _SMALL:
            header.chunks.setdefault(kind, data[:64])
            continue
        size = _decompressed(kind, data) if len(data) == length - 12 else MAX_PROFILE + 1
        if kind in _TEXTS and size <= MAX_CHUNK and size <= room:
            room -= size
        elif kind in _TEXTS or size > MAX_CHUNK:
            skipped.append((place, length))
            if kind == b"iCCP" and size <= MAX_PROFILE:
                header.icc = zlib.decompress(data[data.index(0) + 2 :])
            else:
                header.dropped.add("colour profile" if kind == b"iCCP" else "text")
    return _without(stream, skipped) if skipped else stream


def _decompressed(kind: bytes, data: bytes) -> int:
    """How long the content of a chunk is; MAX_PROFILE + 1 stands for any more."""
    packed = data[data.find(b"\0") + 2 :]
    if kind == b"tEXt" or (kind == b"iTXt" and not data[data.find(b"\0") + 1 :].startswith(b"\1")):
        return len(data)
    if kind == b"iTXt":
        packed = packed[1:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_PROFILE + 1))
    except zlib.error:  # Pillow ignores it
        return 0


def _without(stream: BinaryIO, parts: list[tuple[int, int]]) -> BinaryIO:
    kept, place = io.BytesIO(), 0
    stream.seek(0)
    for start, length in parts:
        kept.write(stream.read(start - place))
        place = start + length
        stream.seek(place)
    kept.write(stream.read())
    return kept


def _without_long_exif(stream: BinaryIO, header: Header) -> BinaryIO:
    """A TIFF without its EXIF and GPS if they have a long entry.

    Pillow decodes them with the pixels, and takes seconds to turn a long entry into Python numbers.
    """
    stream.seek(0)
    start = stream.read(16)
    order, is_big = ("<" if start[:2] == b"II" else ">"), 43 in start[2:4]
    first = struct.unpack_from(f"{order}Q", start, 8) if is_big else struct.unpack_from(f"{order}I", start, 4)
    main = [entry for entry in _entries(stream, first[0], order, is_big) if entry.tag in _EXIF_DIRECTORIES]
    entries = [found for entry in main for found in _entries(stream, entry.value, order, is_big)]
    inner = [entry.value for entry in entries if entry.tag in _EXIF_DIRECTORIES]
    entries += [found for place in inner[:8] for found in _entries(stream, place, order, is_big)]
    if all(entry.size <= MAX_CHUNK for entry in entries):
        return stream
    header.dropped.add("block of EXIF")
    stream.seek(0)
    data = bytearray(stream.read())
    for entry in main:
        data[entry.place : entry.place + 2] = b"\xff\xff"  # a private tag, which nobody reads
    return io.BytesIO(data)


def _entries(stream: BinaryIO, place: int, order: str, is_big: bool) -> list[Entry]:
    """A directory of a TIFF."""
    form = f"{order}{'HHQQ' if is_big else 'HHII'}"
    stream.seek(place)
    head = stream.read(8 if is_big else 2)
    count = min(int.from_bytes(head, "little" if order == "<" else "big"), 2**16)
    data, length = stream.read(count * struct.calcsize(form)), struct.calcsize(form)
    found: list[Entry] = []
    for at in range(0, len(data) - length + 1, length):
        tag, kind, number, value = struct.unpack_from(form, data, at)
        found.append(Entry(place + len(head) + at, tag, number * _TYPE_SIZES.get(kind, 1), value))
    return found


def colour_box(data: bytes) -> tuple[bytes | None, tuple[int, int] | None]:
    """The first colour box of a JPEG 2000, AVIF or HEIC: an ICC profile, or H.273 code points."""
    icc, codes, at = None, None, data.find(b"colr")
    while at >= 4:
        body = data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
        if body[:4] in (b"prof", b"rICC"):
            icc = icc or body[4:]
        elif body[:4] in (b"nclx", b"nclc"):
            codes = codes or (int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big"))
        elif body[:1] in (b"\2", b"\3"):  # JPEG 2000, part 1: restricted and any ICC profile
            icc = icc or body[3:]
        at = data.find(b"colr", at + 4)
    return icc, codes
