"""Which of the fast ways a model is computed by: those that give what the plain model gives."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sipo.models.quantisation import parts


@dataclass(frozen=True)
class Routes:
    """Found by `sipo.engines.probe`."""

    packs: bool = True
    """Do responses to one prompt share a row?"""
    mixes: bool = True
    """Does a decoding batch hold prompts of different lengths, share what they have in common and drop what is done?"""

    shares: bool = False
    """Are layers that no adapter changes computed once for rows that read the same?"""
    keeps: bool = False
    """Is what they make of a row kept, where rows are read again and again?"""

    @property
    def said(self) -> list[str]:
        """What is slower than it might be, for people."""
        slower = []
        if not self.packs:
            slower.append("responses in one row would see each other, so each has a row of its own")
        if not self.mixes:
            slower.append("padding would change what it writes, so only prompts of one length are decoded together")
        return slower


_remembered: dict[str, Routes] = {}


def once(model: PreTrainedModel, layers: Sequence[str], find: Callable[[], Routes]) -> Routes:
    """What `find` finds for the model with these layers adapted: once a process, however often the same model is
    loaded. Another weight, dtype, device, configuration or layer is another model; a refusal is not remembered.
    """
    key = _digest(model, layers)
    if key not in _remembered:
        _remembered[key] = find()
    return _remembered[key]


def _digest(model: PreTrainedModel, layers: Sequence[str]) -> str:
    kind, config = type(model), model.config
    about = (kind.__module__, kind.__qualname__, config._attn_implementation, sorted(config.to_dict().items(), key=str))
    digest = hashlib.sha256(repr((about, list(layers))).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(repr((name, tuple(tensor.shape), tensor.dtype, tensor.device)).encode())
        for part in parts(tensor.detach()):
            digest.update(_row_sums(part).cpu().numpy().tobytes())
    return digest.hexdigest()


def _row_sums(tensor: Tensor) -> Tensor:
    """Of the numbers' bits read as whole numbers, modulo 2^64: exact in any order, where the weights already are."""
    if not tensor.numel():
        return torch.zeros(0, dtype=torch.int64)
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    rows = tensor.reshape(len(tensor) if tensor.dim() else 1, -1).contiguous()
    return rows.view(whole).sum(-1, dtype=torch.int64)
