"""T5's tokenizer from spiece.model, a file of SentencePiece, where a folder has no tokenizer.json.

transformers would need the package sentencepiece for that. The file is one message of Protocol Buffers; what
counts of it are the pieces (field 1: text 1, score 2) and in the normaliser (field 3) its table of characters
(2).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .networks import read_if_there

FILE = "spiece.model"
EXTRA = 100  # marks that T5 has behind its pieces, unless its config has another number
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is written


def t5_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder with spiece.model. ValueError: it is invalid."""
    from transformers import T5Tokenizer

    pieces: list[tuple[str, float]] = []
    characters = b""
    for field, value in fields((folder / FILE).read_bytes()):
        if field == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
        elif field == 3:
            characters = dict(fields(value)).get(2, b"")
    extra = int(read_if_there(folder / "tokenizer_config.json").get("extra_ids", EXTRA))
    marks = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(min(extra, EXTRA)))]
    return T5Tokenizer(
        vocab=[*pieces, *marks], extra_ids=len(marks), _spm_precompiled_charsmap=characters or None
    )


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message: (number, bytes). ValueError: it is cut short, or none."""
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        kind = key & 7
        if kind == VARINT:
            _, end = varint(message, place)
        elif kind == BYTES:
            length, place = varint(message, place)
            end = place + length
        elif kind in (FIXED64, FIXED32):
            end = place + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError("it is not a SentencePiece file")
        if end > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, message[place:end]
        place = end


def varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first, and the place behind it."""
    number = shift = 0
    while place < len(message):
        number |= (message[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if message[place - 1] < 128:
            return number, place
    raise ValueError("it is cut short")
