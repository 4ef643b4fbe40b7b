"""Gradient checkpointing: a layer keeps its input alone, and is computed again when the backward comes to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sipo.errors import SipoError

Again = Callable[[], AbstractContextManager[Any]]
"""Makes the block in which a layer is computed, the first time and again: there it finds the same rows and weights."""


def check_recomputable(model: PreTrainedModel) -> None:
    """Raise SipoError where the model has no layers that can be."""
    if not _layers(model):
        raise SipoError(
            f"execution.gradient_checkpointing: model type `{model.config.model_type}` has no layers that transformers "
            "can compute again; leave it out"
        )


@contextmanager
def recomputing(body: nn.Module, again: Again) -> Iterator[None]:
    """Forwards in this block keep the layers' inputs; a backward may come later.

    transformers' own switch asks for a model in training mode, in which dropout would be drawn.
    """
    layers = _layers(body)
    for layer in layers:
        layer.forward = partial(_checkpointed, layer.forward, again)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(body: nn.Module) -> list[nn.Module]:
    return [layer for layer in body.modules() if isinstance(layer, GradientCheckpointingLayer)]


def _checkpointed(forward: Callable[..., Any], again: Again, *inputs: Any, **named: Any) -> Any:
    def computed(*inputs: Any, **named: Any) -> Any:
        with again():  # as often as there are ways back over one graph
            return forward(*inputs, **named)

    return checkpoint(computed, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
