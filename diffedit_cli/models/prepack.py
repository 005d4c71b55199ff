"""Convolutions that keep their weights in the order in which oneDNN wants them.

torch keeps the plain order, and oneDNN reorders all weights at every call: on a CPU a good part of a forward
of few samples (docs/speed.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

OPS = torch.ops.mkldnn


class PackedConv2d(nn.Conv2d):
    """A Conv2d whose weights are packed for the size of picture that it saw last."""

    packed: Tensor | None = None
    packed_for: torch.Size | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape, how = input.shape[1:], (self.padding, self.stride, self.dilation, self.groups)
        if self.packed_for != shape:
            plain = weight.data if self.packed is None else self.packed.to_dense()
            # two samples, whatever comes: the result must not depend on what the model saw before
            self.packed = OPS._reorder_convolution_weight(plain, *how, [2, *shape])
            self.packed_for = shape
            self.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
        return OPS._convolution_pointwise(input, self.packed, bias, *how, "none", [], "")


def prepack(network: Any) -> None:
    """Let every convolution of a network on the CPU pack its weights when it first runs.

    The operators are torch's own, for its compiler; a torch without them runs the network as it is.
    """
    names = "_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported"
    has_operators = torch.backends.mkldnn.is_available() and all(hasattr(OPS, name) for name in names)
    can = {torch.float32: has_operators, torch.bfloat16: has_operators and OPS._is_mkldnn_bf16_supported()}
    for module in network.modules():
        if type(module) is nn.Conv2d and can.get(module.weight.dtype):
            module.__class__ = PackedConv2d
