"""The local engines of all ranks of a launch, at the batches of one call.

These are planned as the local engine's are, no larger than leaves some for each rank, and each is computed whole by one
rank: what comes of it is what one process gives, up to rounding. The ranks take a batch each at a time, and rank 0 is
handed the results.
"""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from sipo.bank import Bank
from sipo.bank.everywhere import each_by_itself, until_asked_otherwise
from sipo.engines.batched import Batch
from sipo.engines.interface import Span
from sipo.engines.local import Local
from sipo.ranks import current, joined
from sipo.settings import Execution

Reply = tuple[Sequence[Any], Exception | None]
"""The results of a batch, or what stood in the way."""
_seat: list[tuple[Local, Span]] = []
"""Of a rank other than 0: what it computes with, until it is told of another span."""


class Shared(Local):
    """Rank 0's, which asks those of all."""

    def __init__(self, execution: Execution, bank: Bank) -> None:
        super().__init__(execution, bank)
        ranks = joined()
        self.at_once = ranks.count if ranks else 1
        self._known: Span | None = None
        """What the others compute with."""

    def _computed(self, span: Span, batches: Sequence[Batch]) -> Iterator[tuple[int, Sequence[Any]]]:
        ranks = joined()
        if ranks is None or len(batches) < 2:
            yield from super()._computed(span, batches)
            return
        self._known = None
        try:
            for start in range(0, len(batches), ranks.count):
                some = batches[start : start + ranks.count]
                told = None if self._known is span else (self.execution, span)
                self._known = span
                replies = each_by_itself(_round, self.bank(span), told, some, seat=(self, span))
                failed = [error for _, error in replies if error is not None]
                yield from ((start + place, found) for place, (found, error) in enumerate(replies) if error is None)
                if failed:
                    raise failed[0]
        finally:
            self._release()


def _round(
    bank: Bank,
    told: tuple[Execution, Span] | None,
    batches: Sequence[Batch],
    seat: tuple[Local, Span] | None = None,
) -> list[Reply]:
    """A reply to each batch, by rank; for rank 0, whose `seat` is its own."""
    ranks = current()
    if seat is None and told is not None:
        _seat[:] = [(Local(told[0], bank), told[1])]
        until_asked_otherwise(_seat[0][0].close)
    local, span = seat or _seat[0]
    reply: Reply = (), None
    if ranks.rank < len(batches):
        try:
            reply = list(local.compute(span, batches[ranks.rank])), None
        except Exception as error:
            reply = (), error if ranks.rank == 0 else _as_told(error)
    return ranks.gathered(reply)[: len(batches)]


def _as_told(error: Exception) -> Exception:
    """As it can travel."""
    try:
        pickle.dumps(error)
    except Exception:  # it may hold anything
        return RuntimeError(str(error))
    return error
