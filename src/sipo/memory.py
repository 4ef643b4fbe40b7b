"""Full memory: what did not fit is computed again in smaller pieces, which changes rounding alone."""

import errno
import gc
import re
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, Protocol, TypeVar

UNBOUND = 2**62
"""More than anything counts to."""
ALLOCATION = re.compile(
    "can't allocate memory|not enough memory|Cannot allocate memory|out of memory|std::bad_alloc|STATUS_ALLOC_FAILED"
)
"""In what torch raises on a processor, and what libraries below it raise, cuBLAS and cuDNN among them."""
A = TypeVar("A")
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
    if isinstance(error, OSError):  # of a file that is mapped, or of a process that is started
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and ALLOCATION.search(str(error)) is not None


def fewer(plan: Callable[[int], Sequence[tuple[Sequence[Any], bool]]], size: int) -> int | None:
    """Half of the size, or a quarter, .., by which the plan has smaller pieces; None where each is of one."""
    pieces = plan(size)
    if all(len(piece) == 1 for piece, _ in pieces):
        return None
    while plan(size) == pieces:
        size //= 2
    return size


class Pieces:
    """How much is computed at once: half of what did not fit, from then on. The first time, it is said."""

    def __init__(self, what: str, key: str | None) -> None:
        """`size` counts `what`; `key` of the configuration is what people would lower, if there is one."""
        self.size, self.what, self.key = UNBOUND, what, key
        self._said = False

    def of(self, batch: B, compute: Callable[[B], Sequence[T]]) -> list[T]:
        """What compute gives for the batch, or for its halves, one after the other."""
        halves = batch.halves() if len(batch) > self.size else ()
        if halves:
            return [each for half in halves for each in self.of(half, compute)]
        found = self._tried(lambda: list(compute(batch)), lambda: len(batch.halves()) > 0)
        if found is None:
            self._lower(len(batch), len(batch) // 2)
            return self.of(batch, compute)
        return found

    def slices(self, items: Sequence[A], compute: Callable[[Sequence[A]], Sequence[T]]) -> list[T]:
        """What compute gives for all items, in order, from slices of as many as the memory holds."""

        def found(most: int) -> list[T]:
            return [each for at in range(0, len(items), most) for each in compute(items[at : at + most])]

        return self.within(len(items), found, lambda most: most // 2 or None) if items else []

    def within(self, size: int, compute: Callable[[int], T], fewer: Callable[[int], int | None]) -> T:
        """What compute(size) gives, a whole piece of work with at most so many at once. Where they do not fit it begins
        anew with fewer(size), the next lower number that makes a difference, None where there is none.
        """
        size = min(size, self.size)
        while True:
            found = self._tried(lambda: (compute(size),), lambda: fewer(size) is not None)  # noqa: B023
            if found is not None:
                return found[0]
            self._lower(size, fewer(size) or 1)
            size = self.size

    def _tried(self, compute: Callable[[], T], divisible: Callable[[], bool]) -> T | None:
        """None where memory is full and a smaller piece may fit. The error has let go of its tensors by then."""
        try:
            return compute()
        except Exception as error:
            if not (is_full(error) and divisible()):
                raise
            return None

    def _lower(self, size: int, to: int) -> None:
        import torch

        self.size = to
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._said:
            self._said = True
            getLogger(__name__).warning(
                "the memory does not hold %d %s at once: half as many from now on, or fewer%s",
                size, self.what, f"; {self.key} lower spares the try" if self.key else "",
            )  # fmt: skip
