"""Files of weights in GGUF, as ComfyUI-GGUF and stable-diffusion.cpp write them: checked, then mapped.

The head is read here: the reader of the package gguf trusts the counts in it. That package knows the types,
and diffusers their blocks (quantised.py).
"""

import math
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from .quantised import Quantised

GGUF = ".gguf"
VERSIONS = (2, 3)
LONGEST_HEAD = 2**24  # bytes: that of a network for pictures has less than a million
MOST_DIMS = 4
CODES = {  # of the plain kinds of value, for struct
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
TEXT, ARRAY = 8, 9
PLAIN = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
SHAPE = "comfy.gguf.orig_shape."  # of a tensor whose rows do not divide into blocks
MARKS = (  # of a UNet, a VAE, SD3, FLUX and Chroma, of diffusers, of Z-Image and T5
    "input_blocks.0.0.weight", "conv_in.weight", "joint_blocks.0.", "double_blocks.0.",
    "transformer_blocks.0.", "noise_refiner.0.", "enc.blk.0.",
)  # fmt: skip
INSTALL = "Run: pip install 'diffedit-cli[gguf]'."


@dataclass(frozen=True)
class Entry:
    """A tensor of a file. kind: GGUF's number of its type. kind_name: its name. shape: as torch has it.
    start: its first byte. size: in bytes."""

    kind: int
    kind_name: str
    shape: torch.Size
    start: int
    size: int


@dataclass
class Head:
    """The beginning of a file, and how far it has been read."""

    data: bytes
    at: int = 0

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{code}" if count != 1 else f"<{code}")
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def text(self) -> str:
        return self.numbers(f"{self.number('Q')}s", 1)[0].decode()

    def value(self) -> Any:
        kind = self.number("I")
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(CODES[kind])
        inner, count = self.number("I"), self.number("Q")
        return [self.text() for _ in range(count)] if inner == TEXT else self.numbers(CODES[inner], count)


def read_entries(path: Path) -> dict[str, Entry]:
    """The tensors of a file, by name; no weight is read. ModelError: it is invalid, or not supported.

    Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    check_installed()
    with path.open("rb") as file:
        head = Head(file.read(LONGEST_HEAD))
    with spoilt(path):
        about, found = read_head(head)
        if len({name for name, *_ in found}) < len(found):
            raise ValueError("a name appears twice")
        step, size = about.get("general.alignment", 32), path.stat().st_size
        start = math.ceil(head.at / step) * step
    if not any(mark in name for name, *_ in found for mark in MARKS):
        raise ModelError(
            f"{path} holds no network of a family that runs; its architecture is "
            f"{about.get('general.architecture')!r:.60}.",
            "Give a GGUF of Stable Diffusion, FLUX, Chroma, Qwen-Image, Z-Image or T5.",
        )
    for name, _, kind, _ in found:
        check_kind(path, name, kind)
    with spoilt(path):
        return {
            name: entry_of(sides, kind, start + offset, size, about.get(f"{SHAPE}{name}"))
            for name, sides, kind, offset in found
        }


@contextmanager
def spoilt(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (struct.error, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be loaded: it is truncated, or not a GGUF file.", "Fetch it again."
        ) from error


def check_installed() -> None:
    try:
        import_module("gguf")
    except ModuleNotFoundError as error:
        raise ModelError("A GGUF file needs the package gguf, which is not installed.", INSTALL) from error


def read_head(head: Head) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
    """What a file says of itself, and of each tensor its name, its sides, the innermost first, its type, and
    where it begins after the head."""
    magic, version = head.numbers("4s", 1)[0], head.number("I")
    if magic != b"GGUF" or version not in VERSIONS:
        raise ValueError(f"version {version}")
    tensors, facts = head.numbers("Q", 2)
    about: dict[str, Any] = {}
    for _ in range(facts):
        key = head.text()
        about[key] = head.value()
    found: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(tensors):
        name, dims = head.text(), head.number("I")
        if dims > MOST_DIMS:
            raise ValueError(f"{dims} dimensions")
        found.append((name, head.numbers("Q", dims), head.number("I"), head.number("Q")))
    return about, found


def check_kind(path: Path, name: str, kind: int) -> None:
    """ModelError for a type whose blocks nothing here can read."""
    from diffusers.quantizers.gguf.utils import dequantize_functions
    from gguf import GGMLQuantizationType

    if kind not in PLAIN and kind not in dequantize_functions:
        known = {sort.value: sort.name for sort in GGMLQuantizationType}
        raise ModelError(
            f"{path} is quantised as {known.get(kind, f'type {kind}')}, which is not supported ({name}).",
            "Use one in Q8_0, Q6_K, Q5_K, Q4_K or another usual type.",
        )


def entry_of(sides: tuple[int, ...], kind: int, start: int, most: int, shape: Any) -> Entry:
    """A tensor whose bytes are in the file. shape: where another than its sides is named."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    sort = GGMLQuantizationType(kind)
    block_size, type_size = GGML_QUANT_SIZES[sort]
    shape = torch.Size(shape or sides[::-1])
    if min(shape, default=1) < 1 or shape.numel() != math.prod(sides) or (sides or (1,))[0] % block_size:
        raise ValueError("its sides do not fit")
    size = shape.numel() // block_size * type_size
    if start + size > most:
        raise ValueError("it goes beyond the end")
    return Entry(kind, sort.name, shape, start, size)


def facts_of(path: Path) -> dict[str, Any]:
    """What a checked file says of itself."""
    with path.open("rb") as file, spoilt(path):
        return read_head(Head(file.read(LONGEST_HEAD)))[0]


def read_gguf(path: Path) -> dict[str, Tensor | Quantised]:
    """The tensors of a file, mapped from disk rather than read."""
    entries = read_entries(path)
    data = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))  # torch warns of arrays it cannot write to
    state: dict[str, Tensor | Quantised] = {}
    for name, entry in entries.items():
        codes, plain = data[entry.start : entry.start + entry.size], PLAIN.get(entry.kind)
        state[name] = (
            codes.view(plain).reshape(entry.shape) if plain else Quantised(codes, entry.kind, entry.shape)
        )
    return state
