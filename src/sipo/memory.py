"""Full memory: what did not fit is computed again in smaller pieces, which changes rounding alone."""

import gc
import re
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, Protocol, TypeVar

ALLOCATION = re.compile("can't allocate memory|out of memory")
"""In what torch raises on a processor, and in some libraries on a GPU."""
T = TypeVar("T")
B = TypeVar("B", bound="Divisible")


class Divisible(Protocol):
    def __len__(self) -> int: ...

    def halves(self) -> Sequence[Any]:
        """In order; none where it cannot be divided."""
        ...


def is_full(error: BaseException) -> bool:
    """Did the memory of the machine or of its device not suffice?"""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be here
        return True
    return isinstance(error, RuntimeError) and ALLOCATION.search(str(error)) is not None


class Pieces:
    """How much is computed at once: half of what did not fit, from then on. The first time, it is said."""

    def __init__(self, size: int, what: str, key: str) -> None:
        """`size` counts `what`; `key` of the configuration is what people would lower."""
        self.size, self.what, self.key = size, what, key
        self._said = False

    def of(self, batch: B, compute: Callable[[B], Sequence[T]]) -> list[T]:
        """What compute gives for the batch, or for its halves, one after the other."""
        halves = batch.halves() if len(batch) > self.size else ()
        if halves:
            return [each for half in halves for each in self.of(half, compute)]
        found = self._tried(lambda: list(compute(batch)), len(batch.halves()) > 0)
        if found is None:
            self._halve(len(batch))
            return self.of(batch, compute)
        return found

    def _tried(self, compute: Callable[[], T], divisible: bool) -> T | None:
        """None where memory is full and a smaller piece may fit. The error has let go of its tensors by then."""
        try:
            return compute()
        except Exception as error:
            if not (divisible and is_full(error)):
                raise
            return None

    def _halve(self, size: int) -> None:
        import torch

        self.size = max(1, size // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._said:
            self._said = True
            getLogger(__name__).warning(
                "the memory does not hold %d %s at once: half as many from now on, or fewer; %s lower spares the try",
                size, self.what, self.key,
            )  # fmt: skip
