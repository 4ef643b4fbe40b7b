"""A whole model as a policy: all its parameters are its own (full fine-tuning), and soups average them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sipo.disk.content import short_digest
from sipo.disk.tables import write_json
from sipo.errors import SipoError
from sipo.finite import infinite_tensor
from sipo.models.load import attention_of
from sipo.models.pretrained import Origin, read_config, read_weights

if TYPE_CHECKING:
    from sipo.bank.bank import Bank
    from sipo.bank.policy import Mounted
    from sipo.models.load import Backbone

ABOUT = "policy.json"
"""Beside the model: the backbone that it was trained from, and whether it still is that."""


ROUNDING = 1e-6
"""How far from 1 shares may sum in float32 that are meant to."""


@dataclass(frozen=True, eq=False)
class Whole:
    """`weights` has every floating-point parameter, by its name in the backbone; shared ones once."""

    weights: dict[str, Tensor]
    still: bool = False
    apart: ClassVar[bool] = True

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.weights.values())

    @property
    def layers(self) -> list[str]:
        return []  # each layer is computed as the model itself does

    @property
    def identity(self) -> str:
        return short_digest(self._content())

    def _content(self) -> Iterator[bytes | memoryview]:
        for name, weight in sorted(self.weights.items()):
            yield f"{name} {weight.dtype} {tuple(weight.shape)}".encode()
            yield weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data

    def trainable_copy(self, device: torch.device) -> "Whole":
        copies = {
            name: weight.detach().to(device, torch.float32, copy=True).requires_grad_()
            for name, weight in self.weights.items()
        }
        return Whole(copies)

    def mount(self, bank: "Bank", policies: "Sequence[Whole]") -> "AbstractContextManager[Mounted]":
        from sipo.bank.swapped import Swapped

        return Swapped.on(bank, policies)

    def soup(self, policies: "Sequence[Whole]", weights: Sequence[float], model: PreTrainedModel) -> "Whole":
        return average(policies, weights, parameters_of(model))

    def merged(self, model: PreTrainedModel) -> dict[str, Tensor]:
        return {name: self.weights[name].detach().to(each) for name, each in parameters_of(model).items()}

    def save(self, folder: Path, backbone: "Backbone") -> None:
        """A model's folder, in the backbone's dtype."""
        own, rounded = parameters_of(backbone.model), self.merged(backbone.model)
        name = infinite_tensor(rounded.items())
        if name is not None:
            raise SipoError(f"{folder}: `{name}` holds NaN or infinite numbers; lower the learning rate")
        with wearing(backbone.model, rounded):
            backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
        still = all(torch.equal(weight, own[name]) for name, weight in rounded.items())
        write_json(folder / ABOUT, {"base": backbone.source, "still": still})


def new_whole(model: PreTrainedModel) -> Whole:
    """The backbone itself, which training begins as."""
    return Whole(parameters_of(model), still=True)


def load_whole(folder: Path) -> Whole:
    """Read a model's folder, in the dtype that it is kept in. Raises SipoError where it is missing or damaged."""
    origin = Origin(str(folder), local=True, name=str(folder))
    about = folder / ABOUT
    try:
        still = bool(json.loads(about.read_text(encoding="utf-8"))["still"]) if about.exists() else False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SipoError(f"{about}: cannot be read ({error}); is the folder whole?") from None
    config = read_config(origin)
    kept = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model, _ = read_weights(origin, kept, config=config, attn_implementation=attention_of(config))
    return Whole(parameters_of(model), still)


def average(policies: Sequence[Whole], weights: Sequence[float], own: Mapping[str, Tensor]) -> Whole:
    """The soup W + sum_i w_i (W_i - W), which is sum_i w_i W_i where the weights sum to 1: added up in float32, rounded
    once. `own` is W, whose device and dtype the soup has.
    """
    parts = [(w, policy.weights) for w, policy in zip(weights, policies, strict=True) if w]
    rest = 1 - sum(weights)
    if abs(rest) > ROUNDING:
        parts.append((rest, dict(own)))

    def mixed(name: str, like: Tensor) -> Tensor:
        first, *others = (w * each[name].to(like.device).float() for w, each in parts)
        return sum(others, first).to(like.dtype)

    return Whole({name: mixed(name, like) for name, like in own.items()})


def parameters_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every floating-point parameter, shared ones once."""
    return {name: each.detach() for name, each in model.named_parameters() if each.is_floating_point()}


@contextmanager
def wearing(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """In this block the model computes with these in place of its own parameters; one that is shared stays shared."""
    name_of = {id(each): name for name, each in model.named_parameters()}
    own = [(module, kind, each) for module in model.modules() for kind, each in module._parameters.items()]
    places = [(module, kind, each) for module, kind, each in own if each is not None]
    try:
        for module, kind, each in places:
            module._parameters[kind] = weights.get(name_of[id(each)], each)  # type: ignore[assignment]
        yield
    finally:
        for module, kind, each in places:
            module._parameters[kind] = each
