"""The decoder layers below the lowest adapted one: rows that read the same there have one row in common.

A policy of upper layers alone is the backbone up to them, so what all policies make of a prompt or of a token is
computed once below, and kept once in the cache.
"""

import inspect
import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

FOLLOWS = re.compile("hidden_states|.*attention_mask|.*position_ids|.*position_embeddings.*")
"""What a decoder layer is given for each row."""


@dataclass(frozen=True)
class Sharing:
    """Which rows are one row in the trunk: of [rows], its number there; first [trunk rows], one of those that it is."""

    of: Tensor
    first: Tensor

    @classmethod
    def by(cls, alike: Sequence[Hashable], device: torch.device | str = "cpu") -> Self | None:
        """Equal keys share; None where all differ. Numbers are in the order of the rows."""
        numbers: dict[Hashable, int] = {}
        of = [numbers.setdefault(key, len(numbers)) for key in alike]
        if len(numbers) == len(of):
            return None
        first: dict[int, int] = {}
        for row, number in enumerate(of):
            first.setdefault(number, row)
        return cls(torch.tensor(of, device=device), torch.tensor(list(first.values()), device=device))

    @classmethod
    def none(cls, rows: int, device: torch.device) -> Self:
        """Each row has its own."""
        own = torch.arange(rows, device=device)
        return cls(own, own)

    def beside(self, other: "Sharing") -> "Sharing":
        """With the rows of another behind these."""
        of = torch.cat([self.of, other.of + len(self.first)])
        return Sharing(of, torch.cat([self.first, other.first + len(self.of)]))

    def selected(self, rows: Tensor, alike: Sequence[Hashable] | None) -> tuple["Sharing | None", Tensor]:
        """Of these rows, in this order, and where their trunk rows are among the present ones. `alike` tells those
        apart that have shared so far; None goes on as before.
        """
        kept = self.of[rows]
        found = Sharing.by(kept.tolist() if alike is None else alike, kept.device)
        return found, kept if found is None else kept[found.first]


class Trunk:
    """`layers` are the model's decoder layers, of which the first `depth` are the trunk."""

    def __init__(self, layers: Sequence[nn.Module], depth: int) -> None:
        self.layers, self.depth = layers, depth
        self._sharing: Sharing | None = None
        self._below = 0
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._names = list(inspect.signature(layers[depth].forward).parameters) if depth else []

    @contextmanager
    def hooked(self) -> Iterator[Self]:
        """For the block, layers above the trunk read all rows."""
        layers = list(enumerate(self.layers)) if self.depth else []
        hooks = [each.register_forward_pre_hook(partial(self._spread, n), with_kwargs=True) for n, each in layers]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def share(self, sharing: Sharing | None, depth: int) -> None:
        """From the next forward on, in the first `depth` layers, of those that may."""
        self._sharing, self._below = sharing, depth
        self._made.clear()

    def _spread(self, number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._sharing is None or number < self._below:
            return None
        spread = tuple(self._given(name, each) for name, each in zip(self._names, args, strict=False))
        return spread, {name: self._given(name, each) for name, each in kwargs.items()}

    def _given(self, name: str, value: Any) -> Any:
        return self._rows(value) if FOLLOWS.fullmatch(name) else value

    def _rows(self, given: Any) -> Any:
        """Each trunk row as often as rows share it; what is for all rows alike, or for the rows already, as it is."""
        if isinstance(given, tuple):
            return tuple(self._rows(each) for each in given)
        assert self._sharing is not None
        if not isinstance(given, Tensor) or given.dim() < 2 or len(given) != len(self._sharing.first):
            return given
        if id(given) not in self._made:  # masks are the same for many layers
            self._made[id(given)] = given, given[self._sharing.of]
        return self._made[id(given)][1]
