"""The key-value cache of a batch that grows by a token a step."""

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

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


def _grown(held: Tensor | None, new: Tensor, total: int) -> Tensor:
    rows, heads, _, width = new.shape
    room = new.new_empty(rows, heads, total + SPARE, width)
    if held is not None and held.numel():
        room[:, :, : held.shape[-2]] = held
    return room


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache for the model; layers with a window of attention keep transformers' own kind."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
