"""The key-value cache of a batch that grows by a token a step."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

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

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may come more than once."""
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
    """Layers with a window keep all of the past as well: the mask knows what they may see."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        self.layers = [RoomyLayer() if type(layer) in plain else layer for layer in self.layers]

    def select(self, rows: Tensor) -> None:
        for layer in self.layers:
            # A layer with a recurrent state selects all that it holds only where it is asked as for a beam search.
            recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
            select: Any = layer.reorder_cache if recurrent else layer.batch_select_indices  # type: ignore[union-attr]
            select(rows)

    @property
    def joins(self) -> bool:
        return all(type(layer) is RoomyLayer for layer in self.layers)

    def shift(self, columns: int) -> None:
        for layer in self.layers:
            layer.shift(columns)  # type: ignore[union-attr]

    def join(self, other: "RoomyCache") -> None:
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.join(more)  # type: ignore[union-attr]

    def respan(self, kept: Sequence[int], n: int) -> None:
        pass
