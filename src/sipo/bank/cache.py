"""The key-value cache of a batch that grows by a token a step."""

from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, Protocol, Self

from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

from sipo.bank.trunk import Sharing

SPARE = 32
"""Positions that a full buffer grows by."""


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [rows, heads, length, d], kept with room to grow.

    A plain dynamic layer copies all that it holds for every new token.
    """

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new, d] to both; returns all of them, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        total = past + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < total:
            self._room = _grown(self.keys, key_states, total), _grown(self.values, value_states, total)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, past:total] = new
        self.keys, self.values = (room[:, :, :total] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None

    def shift(self, columns: int) -> None:
        if self.get_seq_length() > 0:
            held: Any = (self.keys, self.values)
            self.keys, self.values = (pad(each, (0, 0, columns, 0)) for each in held)
            self._room = None

    def join(self, other: "RoomyLayer") -> None:
        if self.get_seq_length() > 0:
            mine: Any = (self.keys, self.values)
            theirs: Any = (other.keys, other.values)
            self._room = _together(mine[0], theirs[0]), _together(mine[1], theirs[1])
            self.keys, self.values = (room[:, :, :-SPARE] for room in self._room)


def _together(held: Tensor, more: Tensor) -> Tensor:
    rows, heads, length, width = held.shape
    room = held.new_empty(rows + len(more), heads, length + SPARE, width)
    room[:rows, :, :length], room[rows:, :, :length] = held, more
    return room


def _grown(held: Tensor | None, new: Tensor, total: int) -> Tensor:
    rows, heads, _, width = new.shape
    room = new.new_empty(rows, heads, total + SPARE, width)
    if held is not None and held.numel():
        room[:, :, : held.shape[-2]] = held
    return room


class Cache(Protocol):
    """What a bank keeps of the rows that it has computed."""

    @property
    def joins(self) -> bool:
        """Can its columns be shifted, and the rows of another be taken in?"""
        ...

    def selected(self, rows: Tensor, alike: Sequence[Hashable]) -> Self:
        """A cache of these rows, by `select`; this one stays as it is."""
        ...

    def select(self, rows: Tensor, alike: Sequence[Hashable] | None = None) -> None:
        """Keep these rows, in this order; a row may come more than once. From here on those share a trunk that have
        shared so far and are `alike` by these keys; without keys, all that have.
        """
        ...

    def shift(self, columns: int) -> None:
        """Put so many columns of zeros before all others; or, below zero, let the first ones go."""
        ...

    def join(self, other: Self) -> None:
        """Take in the rows of another, which has as many columns, behind its own."""
        ...

    def respan(self, kept: Sequence[int], n: int) -> None:
        """The rows' points are now `respanned`."""
        ...


class RoomyCache(DynamicCache):
    """Layers with a window keep all of the past as well: the mask knows what they may see.

    The first `depth` layers hold trunk rows where rows share them (`sipo.bank.trunk`).
    """

    def __init__(self, config: PreTrainedConfig, sharing: Sharing | None = None, depth: int = 0) -> None:
        super().__init__(config=config)
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        self.layers = [RoomyLayer() if type(layer) in plain else layer for layer in self.layers]
        self.sharing, self.depth = sharing, depth

    def selected(self, rows: Tensor, alike: Sequence[Hashable] | None) -> "RoomyCache":
        made = copy(self)
        made.layers = [copy(layer) for layer in self.layers]
        made.select(rows, alike)
        return made

    def select(self, rows: Tensor, alike: Sequence[Hashable] | None = None) -> None:
        trunk = rows
        if self.sharing is not None:
            self.sharing, trunk = self.sharing.selected(rows, alike)
        for layer in self.layers[: self.depth]:
            _select(layer, trunk)
        for layer in self.layers[self.depth :]:
            _select(layer, rows)

    def cut(self, depth: int) -> None:
        """Have a trunk of so many layers at most: those above hold a row for each row again."""
        if depth < self.depth:
            for layer in self.layers[depth : self.depth] if self.sharing is not None else ():
                _select(layer, self.sharing.of)  # type: ignore[union-attr]
            self.depth = depth
            self.sharing = self.sharing if depth else None

    @property
    def joins(self) -> bool:
        return all(type(layer) is RoomyLayer for layer in self.layers)

    def shift(self, columns: int) -> None:
        for layer in self.layers:
            layer.shift(columns)  # type: ignore[union-attr]

    def join(self, other: "RoomyCache") -> None:
        depth = min(self.depth, other.depth)
        self.cut(depth)
        other.cut(depth)
        if self.sharing is not None or other.sharing is not None:
            self.sharing = self._shared().beside(other._shared())
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.join(more)  # type: ignore[union-attr]

    def respan(self, kept: Sequence[int], n: int) -> None:
        pass

    def _shared(self) -> Sharing:
        last: Any = self.layers[-1]
        return self.sharing or Sharing.none(len(last.keys), last.keys.device)


def _select(layer: Any, rows: Tensor) -> None:
    # A layer with a recurrent state selects all that it holds only where it is asked as for a beam search.
    recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    (layer.reorder_cache if recurrent else layer.batch_select_indices)(rows)
