"""What a trunk makes of rows that are read again and again, as training does over epochs, objectives and weights.

A row's states are computed from that row alone, so they are the same to the last bit whoever shares its batch, whether
they were kept, and after a crash.
"""

from collections.abc import Callable, Hashable

from torch import Tensor

from sipo.room import machine_memory

SHARE = 8
"""States take at most one part in so many of the machine's memory; rows beyond it are computed each time."""


class Kept:
    """States [T, d] by row and depth, on the CPU."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit` is in bytes; without one it is a share of the machine's memory."""
        self.limit = limit if limit is not None else machine_memory() // SHARE
        self.bytes = 0
        self._states: dict[Hashable, Tensor] = {}

    def __len__(self) -> int:
        return len(self._states)

    def states(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Those of the row, made where they are not there."""
        if key in self._states:
            return self._states[key]
        made = make()
        size = made.numel() * made.element_size()
        if self.bytes + size <= self.limit:
            self._states[key] = made.cpu()
            self.bytes += size
        return made

    def clear(self) -> None:
        self._states.clear()
        self.bytes = 0
