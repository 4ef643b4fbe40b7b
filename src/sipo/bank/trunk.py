"""The decoder layers below the lowest adapted one: rows that read the same there have one row in common.

A policy of upper layers alone is the backbone up to them, so what all policies make of a prompt or of a token is
computed once below, and kept once in the cache.
"""

import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from weakref import WeakSet

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


class _ReachedError(Exception):
    """The layers above are not needed."""


class _Passing(nn.Module):
    """Stands in for a layer of the trunk, and gives on what it is given."""

    def __init__(self, layer: nn.Module, in_tuples: bool) -> None:
        super().__init__()
        self.__dict__["layer"], self.in_tuples = layer, in_tuples

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if self.in_tuples else hidden_states


_in_tuples: WeakSet[nn.Module] = WeakSet()
"""Lists of layers that give tuples: what was kept of one may be all that the next trunk over it is given."""


class Trunk:
    """`layers` are the model's decoder layers, of which the first `depth` are the trunk; None where there is none."""

    def __init__(self, layers: nn.ModuleList | None, depth: int) -> None:
        self.layers, self.depth = layers, depth
        self._sharing: Sharing | None = None
        self._below = 0
        self._made: dict[int, tuple[Tensor, Tensor]] = {}
        self._stopping: list[Tensor] | None = None
        self._standing: Tensor | None = None
        self._names = list(inspect.signature(layers[depth].forward).parameters) if layers else []

    @contextmanager
    def hooked(self) -> Iterator[Self]:
        """For the block, layers above the trunk read all rows."""
        layers = list(enumerate(self.layers)) if self.layers and self.depth else []
        hooks = []
        if layers:  # they run in this order: what is given in place of the trunk's is spread as well
            hooks.append(layers[self.depth][1].register_forward_pre_hook(self._at_the_top, with_kwargs=True))
            hooks.append(layers[0][1].register_forward_hook(self._note))
        hooks += [each.register_forward_pre_hook(partial(self._spread, n), with_kwargs=True) for n, each in layers]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def share(self, sharing: Sharing | None, depth: int) -> None:
        """From the next forward on, in the first `depth` layers, of those that may."""
        self._sharing, self._below = sharing, depth
        self._made.clear()

    @torch.no_grad()
    def states(self, run: Callable[[], object]) -> Tensor:
        """What the trunk gives in this forward [rows, T, d]; the layers above are left out."""
        found: list[Tensor] = []
        self._stopping = found
        try:
            run()
        except _ReachedError:
            pass
        finally:
            self._stopping = None
        return found[0]

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """In this block the trunk is not computed: it gives `states` [trunk rows, T, d]."""
        assert self.layers is not None
        before = [self.layers[number] for number in range(self.depth)]
        self._standing = states
        try:
            for number, layer in enumerate(before):
                self.layers[number] = _Passing(layer, self.layers in _in_tuples)
            yield
        finally:
            self._standing = None
            for number, layer in enumerate(before):
                self.layers[number] = layer

    def _note(self, _: nn.Module, __: object, output: object) -> None:
        if isinstance(output, tuple) and self.layers is not None:
            _in_tuples.add(self.layers)

    def _at_the_top(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        if self._stopping is not None:
            self._stopping.append(states)
            raise _ReachedError
        if self._standing is None:
            return None
        return ((self._standing, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self._standing})

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
