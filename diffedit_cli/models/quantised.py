"""Quantised weights, in fp8 or a type of GGUF: as plain ones, or kept where plain ones would not fit.

Kept weights are in memory only as codes; each forward pass unpacks one layer's weight at a time, which takes
time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Kind = torch.dtype | int


@dataclass(frozen=True)
class Quantised:
    """A tensor in fewer bits than its numbers take.

    codes: bytes; of fp8 one for each number, of a type of GGUF its blocks, one after the other. kind: fp8's
    dtype, or GGUF's number of the type. scale: what fp8's numbers are multiplied by, one factor or one for
    each row; None: 1.
    """

    codes: Tensor
    kind: Kind
    shape: torch.Size
    scale: Tensor | None = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Its numbers, computed in float32 and rounded once."""
        return dense(self.codes, self.kind, self.shape, self.scale, dtype)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Rows are cut and joined, as a change of names does that splits or swaps layers; nothing else."""
        if (kwargs or {}).get("dim", 0) != 0:
            return NotImplemented
        if function is torch.cat:
            return joined(args[0])
        return {torch.chunk: cls.chunk, torch.split: cls.split}[function](args[0], args[1])

    def chunk(self, count: int, dim: int = 0) -> "list[Quantised]":
        return self.split([self.shape[0] // count] * count)

    def split(self, sizes: Sequence[int]) -> "list[Quantised]":
        """Rows after rows. ValueError: they are not all, or not of whole blocks."""
        width, rest = divmod(self.codes.numel(), self.shape[0])
        if sum(sizes) != self.shape[0] or rest or not self.has_whole_rows(width):
            raise ValueError(f"rows of {[*self.shape]} cannot be cut as {[*sizes]}")
        codes = self.codes.reshape(-1).split([size * width for size in sizes])
        scales = [self.scale] * len(sizes)
        if self.scale is not None and self.scale.numel() > 1:
            scales = [*self.scale.reshape(-1).split([*sizes])]
        return [
            Quantised(some, self.kind, torch.Size((size, *self.shape[1:])), scale)
            for some, size, scale in zip(codes, sizes, scales, strict=True)
        ]

    def has_whole_rows(self, width: int) -> bool:
        """Whether a row of `width` bytes is made of whole blocks."""
        if not isinstance(self.kind, int):
            return True
        from diffusers.quantizers.gguf import utils

        sizes: Any = utils.GGML_QUANT_SIZES
        return width % sizes[self.kind][1] == 0


def joined(parts: Sequence[Quantised]) -> Quantised:
    """Rows after rows. ValueError: they are not of one kind."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any((part.kind, part.shape[1:]) != (first.kind, first.shape[1:]) for part in parts):
        raise ValueError("rows of different kinds cannot be joined")
    if len({part.scale for part in parts}) > 1:  # tensors: the same one
        raise ValueError("rows of different scales cannot be joined")
    rows = sum(part.shape[0] for part in parts)
    codes = torch.cat([part.codes.reshape(-1) for part in parts])
    return Quantised(codes, first.kind, torch.Size((rows, *first.shape[1:])), first.scale)


def dense(codes: Tensor, kind: Kind, shape: torch.Size, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    if isinstance(kind, int):
        return of_gguf(codes, kind).reshape(shape).to(dtype)
    numbers = codes.view(kind).reshape(shape)
    if scale is None:
        return numbers.to(dtype)
    return (numbers.float() * scale.reshape(-1, *[1] * (len(shape) - 1))).to(dtype)


def of_gguf(codes: Tensor, kind: int) -> Tensor:
    """The numbers of blocks of a type of GGUF, one block a row, in float32."""
    from diffusers.quantizers.gguf import utils

    functions: Any = utils.dequantize_functions
    sizes: Any = utils.GGML_QUANT_SIZES
    block_size, type_size = sizes[kind]  # numbers and bytes of a block
    return functions[kind](codes.reshape(-1, type_size), block_size, type_size, torch.float32)


class QuantisedLayer(nn.Module):
    """A layer whose weight is made from codes whenever it is read.

    codes, scale: buffers of bytes, which no cast to another dtype changes.
    """

    codes: Tensor
    scale: Tensor | None
    kind: Kind
    shape: torch.Size
    dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        scale = None if self.scale is None else self.scale.view(torch.float32)
        return dense(self.codes, self.kind, self.shape, scale, self.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


class QuantisedLinear(QuantisedLayer, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    pass


class QuantisedConv2d(QuantisedLayer, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    pass


LAYERS: dict[type, type[QuantisedLayer]] = {nn.Linear: QuantisedLinear, nn.Conv2d: QuantisedConv2d}


def is_quantised(network: Any) -> bool:
    """Whether layers of a network keep their codes."""
    return any(isinstance(module, QuantisedLayer) for module in network.modules())


def keep_quantised(network: nn.Module, key: str, values: Quantised, dtype: torch.dtype) -> bool:
    """Let a layer of a network keep these codes as its weight `key`, to compute in `dtype`.

    False: it is no layer that can.
    """
    stem, _, name = key.rpartition(".")
    layer = network.get_submodule(stem)
    if name != "weight" or type(layer) not in LAYERS:
        return False
    delattr(layer, "weight")
    layer.__class__ = LAYERS[type(layer)]
    scale = None if values.scale is None else values.scale.float().contiguous().view(-1).view(torch.uint8)
    layer.register_buffer("codes", values.codes, persistent=False)
    layer.register_buffer("scale", scale, persistent=False)
    layer.kind, layer.shape, layer.dtype = values.kind, values.shape, dtype  # pyright: ignore
    return True
