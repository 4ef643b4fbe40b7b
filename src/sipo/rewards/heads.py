"""The heads of a reward model that is to be trained: put on a backbone, started near the scores' mean, and in the end
brought to the scores' unit.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sipo.logprobs.packing import batches
from sipo.memory import Pieces
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_config, read_weights
from sipo.rewards.encoding import Encoded
from sipo.rewards.examples import Kind
from sipo.rewards.model import forward
from sipo.rewards.reading import ReadExamples
from sipo.settings import Model

STARTS_FROM = 64
"""Examples whose mean state tells a head without a bias where to start."""


@dataclass(frozen=True)
class Heads:
    """A head for each objective, in order, and what all of them learn from."""

    kind: Kind
    objectives: tuple[str, ...]


def with_heads(model: Model, objectives: Sequence[str], pad: int | None) -> tuple[PreTrainedModel, list[str]]:
    """The backbone with a head for each objective, in float32, and the names of the layers that it had not.

    Raises SipoError where the checkpoint lacks more than a head.
    """
    origin = origin_of(model)
    config = read_config(origin)
    config.id2label = dict(enumerate(objectives))
    config.label2id = {name: index for index, name in enumerate(objectives)}
    kind = AutoModelForSequenceClassification
    network, new = read_weights(origin, torch.float32, kind, config=config, new_head=True)
    network.config.pad_token_id = pad
    return network, sorted({_head(network)[0], *(key.rpartition(".")[0] for key in new)})


def with_lora(network: PreTrainedModel, new: list[str], r: int) -> Any:
    """LoRA on every linear layer of the checkpoint; what is new is trained whole."""
    lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", exclude_modules=new, modules_to_save=new)
    with warnings.catch_warnings():  # PEFT reads an attribute that transformers is about to rename
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(network, lora)


def start_at(network: PreTrainedModel, levels: Tensor, prepared: ReadExamples, budget: int) -> None:
    """Let the heads start near these numbers [N], so that what is left to learn is around zero.

    A head with a bias has it there. Decoders' heads have none: along the mean of the states that the head reads
    every response gets about the same number.
    """
    _, head = _head(network)
    levels = levels.to(head.weight.device)
    if head.bias is not None:
        with torch.no_grad():
            head.bias.copy_(levels)
        return
    some = [each[0] for each in prepared.encoded[:STARTS_FROM]]
    network.requires_grad_(False)
    head.weight.requires_grad_(True)
    state, pieces = torch.zeros_like(head.weight[0]), Pieces("responses", None)

    def read(part: Sequence[Encoded]) -> list[Tensor]:
        # The gradient of a linear layer's output by its weights is what it reads.
        return [torch.autograd.grad(forward(network, part)[:, 0].sum(), head.weight)[0][0] / len(some)]

    for indices in batches([len(one["input_ids"]) for one in some], budget):
        for each in pieces.slices([some[index] for index in indices], read):
            state += each
    network.requires_grad_(True)
    with torch.no_grad():
        missing = levels - head.weight @ state
        head.weight += missing[:, None] * state / state.square().sum()


@torch.no_grad()
def rescale(network: PreTrainedModel, unit: Tensor) -> None:
    """Multiply the heads' numbers by `unit` [N]."""
    _, head = _head(network)
    for parameter in (head.weight, head.bias):
        if parameter is not None:
            parameter.mul_(unit.to(parameter.device).reshape(-1, *[1] * (parameter.dim() - 1)))


def _head(network: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The linear layer that gives the logits, and its name: the last one outside the backbone."""
    inside = f"{network.base_model_prefix}."
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    name, head = [(name, each) for name, each in layers if not name.startswith(inside)][-1]
    return name, head
