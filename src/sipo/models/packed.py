"""A frozen model's linear layers on a CPU, their weights also kept in the order in which its kernels read them.

A product with few rows spends most of its time on putting the weight into that order, again for every product. In
bfloat16 the numbers are the same, in float32 the last bits differ.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from sipo.models.quantisation import is_quantised

SMALLEST = 2**16
"""Numbers in a weight; a smaller one lies in the processor's cache as it is."""
LARGEST = 2 * 2**30
"""Bytes of all weights together: the memory that a second copy of a larger model takes is worth more."""

Content = tuple[int, int, torch.dtype]
"""Where a tensor lies, how often it was changed there, and its dtype."""


class PackedLinear(nn.Linear):
    """Packs its own weight when it is first computed without a gradient; one that it is lent is read as it lies."""

    _own: Tensor | None = None
    """Its weight."""
    _packed: tuple[Content, Tensor] | None = None
    """What the weight held when it was packed, and so packed."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or weight is not self._own
            or not (input.dtype == weight.dtype and _kernels(weight.device.type, weight.dtype))
        ):
            return linear(input, weight, self.bias)
        content = weight.data_ptr(), weight._version, weight.dtype
        if self._packed is None or self._packed[0] != content:
            self._packed = content, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed[1], self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """A copy is an ordinary layer."""
        return {name: value for name, value in vars(self).items() if name not in ("_own", "_packed")}


def pack(model: PreTrainedModel) -> None:
    """Let the model's linear layers compute from packed weights, where there are kernels for it and memory is no
    matter.
    """
    weights = list(model.parameters())
    if sum(each.numel() * each.element_size() for each in weights) > LARGEST:
        return
    for layer in model.modules():
        if type(layer) not in (nn.Linear, PackedLinear):
            continue
        weight: Tensor = layer.weight  # type: ignore[assignment]
        if is_quantised(weight):
            continue
        if weight.numel() >= SMALLEST and _kernels(weight.device.type, weight.dtype):
            layer.__class__ = PackedLinear
            vars(layer)["_own"] = weight  # not by setattr, which would register it a second time


@cache
def _kernels(device: str, dtype: torch.dtype) -> bool:
    """Are there any for packed weights?"""
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
