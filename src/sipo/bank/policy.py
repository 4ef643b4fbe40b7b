"""What a policy is to whoever trains, mixes, scores or keeps it: a model of its own beside the backbone.

There are two kinds, LoRA adapters (`sipo.bank.adapter`) and whole models (`sipo.bank.whole`). N policies of one kind
span the models with weights W + sum_i c_i (W_i - W), W_i being those of policy i, at points c of N numbers.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sipo.bank.cache import Cache
from sipo.bank.head import Head
from sipo.bank.layout import PADDING, Layout
from sipo.bank.trunk import Sharing

if TYPE_CHECKING:
    from sipo.bank.bank import Bank
    from sipo.models.load import Backbone


Point = tuple[float, ...]
"""The coefficients c of N policies: which model of their span is meant."""


def respanned(point: Point, kept: Sequence[int], n: int) -> Point:
    """The same model in another span of n policies: first those `kept`, by their places so far, then new ones.

    It has no share of the others.
    """
    return (*(point[place] for place in kept), *(0.0,) * (n - len(kept)))


@dataclass(frozen=True)
class Reading:
    """What a forward reads, and how."""

    points: Tensor
    """[rows, N]: each row's place in the policies' span."""
    inputs: Mapping[str, Any]
    """The model's own, `input_ids` [rows, T] among them."""
    layout: Layout | None = None
    """None where all rows begin at column 0 and are of one length, without padding."""
    sharing: Sharing | None = None
    """Which rows read the same, so that layers which no policy changes need do so once; a cache knows it of its own."""
    again: Sequence[Hashable] | None = None
    """A key of each row's content, where rows come many times: what such layers make of them is kept."""

    def of(self, rows: Tensor) -> "Reading":
        """These rows, each by itself; a cache is that of all."""
        return Reading(
            self.points[rows.cpu()],
            {**self.inputs, "input_ids": self.inputs["input_ids"][rows]},
            self.layout and self.layout.of(rows),
            again=self.again and [self.again[row] for row in rows.tolist()],
        )

    def alone(self, row: int) -> "Reading":
        """One row of a layout, without the padding behind it."""
        assert self.layout is not None
        length = int((self.layout.segments[row] != PADDING).sum())
        mine = self.of(torch.tensor([row]))
        ids = mine.inputs["input_ids"][:, :length]
        return replace(mine, inputs={**mine.inputs, "input_ids": ids}, layout=mine.layout and mine.layout.until(length))


class Mounted(Protocol):
    """Policies over the backbone of a bank, computed for rows at any points of their span."""

    def forward(self, reading: Reading) -> Any:
        """The output of the model without its head, with `last_hidden_state` [rows, T, d]."""
        ...

    def heads(self, points: Tensor) -> list[tuple[Tensor | None, Head]]:
        """The output heads of rows at these points, each with the rows that pass it; None where all rows do."""
        ...

    def cache(self, sharing: Sharing | None = None) -> Cache:
        """For the keys and values of rows that are decoded, empty; `sharing`: which of them begin with the same."""
        ...


class Policy(Protocol):
    """Its tensors are its own, and nobody else changes them."""

    apart: ClassVar[bool]
    """Are rows at different points computed apart? Then a batch does well to hold those of one mixture alone."""

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        ...

    @property
    def layers(self) -> list[str]:
        """The layers that are computed in another way with it than without; a bank's routes are proven with them."""
        ...

    @property
    def still(self) -> bool:
        """Is it the backbone, to the last bit?"""
        ...

    @property
    def identity(self) -> str:
        """A digest of its content."""
        ...

    def trainable_copy(self, device: torch.device) -> Self:
        """In float32, to be trained from here on."""
        ...

    def mount(self, bank: "Bank", policies: Sequence[Self]) -> AbstractContextManager[Mounted]:
        """All of these policies, for the duration of the block. Raises SipoError where they do not fit the model."""
        ...

    def soup(self, policies: Sequence[Self], weights: Sequence[float], model: PreTrainedModel) -> Self:
        """The one policy at the point `weights` of the span of these over the model."""
        ...

    def merged(self, model: PreTrainedModel) -> Mapping[str, Tensor]:
        """The model's parameters that it changes, as they are with it: added up in float32, rounded once."""
        ...

    def save(self, folder: Path, backbone: "Backbone") -> None:
        """Write the folder that libraries of the kind load. Raises SipoError where a number is not finite."""
        ...
