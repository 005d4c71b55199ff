"""Convolutions that keep their weights in the order that oneDNN uses.

torch keeps the plain order, and oneDNN reorders all weights at every call: on a CPU that is a good part of a
forward of few samples (docs/speed.md).
"""

import threading
from typing import Any, cast

import torch
from torch import Tensor, nn

OPS = torch.ops.mkldnn
LOCK = threading.Lock()


class PackedConv2d(nn.Conv2d):
    """A Conv2d whose weights are packed for the size of picture that it saw last.

    They are kept once: while they are packed, the plain weight is empty. Whatever reads, moves, copies or
    stores the weight puts it back first.
    """

    packed: Tensor | None = None
    packed_for: torch.Size | None = None

    @property
    def weight(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.unpack()
        return cast(nn.Parameter, self._parameters["weight"])

    def forward(self, input: Tensor) -> Tensor:
        return OPS._convolution_pointwise(
            input, self.pack(input.shape[1:]), self.bias, *self.how, "none", [], ""
        )

    @property
    def how(self) -> tuple[Any, ...]:
        return self.padding, self.stride, self.dilation, self.groups

    def pack(self, shape: torch.Size) -> Tensor:
        """The weights for pictures (c h w) of this shape; threads that share the network wait in turn."""
        with LOCK:
            if self.packed is None or self.packed_for != shape:
                # two samples, whatever comes: the result must not depend on what the model saw before
                plain = self.plain()
                self.packed = cast(Tensor, OPS._reorder_convolution_weight(plain, *self.how, [2, *shape]))
                self.packed_for = shape
                self._parameters["weight"] = nn.Parameter(plain.new_empty(0), requires_grad=False)
            return self.packed

    def plain(self) -> Tensor:
        weight = cast(Tensor, self._parameters["weight"])
        return weight.data if self.packed is None else self.packed.to_dense()

    def unpack(self) -> None:
        """Put the plain weight back."""
        with LOCK:
            if self.packed is not None:
                self._parameters["weight"] = nn.Parameter(self.packed.to_dense(), requires_grad=False)
                self.packed = self.packed_for = None

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.unpack()
        return super()._apply(*args, **kwargs)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        self.unpack()
        return self.__dict__.copy()


def prepack(network: Any) -> None:
    """Make every convolution of a network on the CPU pack its weights when it first runs.

    The operators are torch's own, for its compiler; a torch without them runs the network as it is.
    """
    names = "_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported"
    has_operators = torch.backends.mkldnn.is_available() and all(hasattr(OPS, name) for name in names)
    can = {torch.float32: has_operators, torch.bfloat16: has_operators and OPS._is_mkldnn_bf16_supported()}
    for module in network.modules():
        if type(module) is nn.Conv2d and can.get(module.weight.dtype):
            module.__class__ = PackedConv2d
