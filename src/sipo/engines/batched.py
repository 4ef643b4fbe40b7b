"""Engines that compute on banks, batch by batch: the local one, and pools of it.

The plan of a call depends on all that is asked and not on what is done already, because in bf16 even the neighbours in
a batch change the last bits. A batch is a function of a bank, whole in itself: it can be pickled and called elsewhere.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from sipo.bank import Bank
from sipo.bank.policy import Point
from sipo.decoding import Generated, Mixture, Request, decode
from sipo.engines.fitting import rows_for, rows_free, tokens_for
from sipo.engines.interface import NONE, Span
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group, batches, worth_sharing
from sipo.logprobs.score import ScoreRequest, score_rows
from sipo.memory import Pieces
from sipo.settings import Decoding, Execution

Value = TypeVar("Value")
Units = tuple[int, ...]
"""Indices of the requests that a batch is of."""


REFILLS = 4
"""A batch has texts for so many times the rows that are decoded at once: the next begin where others have ended. What a
crash costs is a batch."""


@dataclass(frozen=True)
class Room:
    """How much a process's memory has held at once, of what it computes in batches."""

    execution: Execution
    rows: Pieces = field(default_factory=lambda: Pieces("rows", "execution.decode_rows"))
    scores: Pieces = field(default_factory=lambda: Pieces("scores", "execution.score_tokens"))

    def decode(
        self, bank: Bank, rows: int, requests: Sequence[Request], limit: int, write: Callable[[int], list[Generated]]
    ) -> list[Generated]:
        """What write(most) gives for the requests, with at most so many rows at once; it may begin anew."""
        rows = min(rows, rows_free(self.execution, bank, requests, limit))
        sizes = [len(each.mixture.points) for each in requests]

        def fewer(most: int) -> int | None:
            return most // 2 if most >= 2 * min(sizes) else None  # else each is alone

        return self.rows.within(min(rows, sum(sizes)), write, fewer)


class Batch(Protocol):
    """Its `str` says what it does, for errors."""

    def __call__(self, bank: Bank, room: Room) -> Sequence[Any]:
        """A result for each unit, the span being mounted; in smaller pieces where the memory does not hold it."""
        ...

    def __len__(self) -> int:
        """Of its units."""
        ...

    def halves(self) -> "Sequence[Batch]":
        """Two batches of its units, in order; none where it is of one unit."""
        ...


@dataclass(frozen=True)
class Texts:
    requests: Sequence[Request]
    decoding: Decoding
    limit: int
    stops: Collection[int]
    rows: int
    """In flight at once."""

    def __call__(self, bank: Bank, room: Room) -> list[Generated]:
        asked = bank, self.requests, self.decoding, self.limit, self.stops
        return room.decode(bank, self.rows, self.requests, self.limit, lambda most: decode(*asked, rows=most))

    def __len__(self) -> int:
        return len(self.requests)

    def halves(self) -> Sequence[Batch]:
        return [replace(self, requests=half) for half in _halved(self.requests)]

    def __str__(self) -> str:
        lengths = [len(each.prompt) for each in self.requests]
        return f"wrote {len(lengths)} texts of up to {self.limit} tokens to prompts of {min(lengths)} to {max(lengths)}"


@dataclass(frozen=True)
class Single:
    """Responses under single points, in rows with their prompts."""

    rows: Sequence[tuple[Group, Point]]

    def __call__(self, bank: Bank, room: Room) -> list[float]:
        return room.scores.of(self, lambda part: [value for row in score_rows(bank, part.rows) for value in row])

    def __len__(self) -> int:
        return sum(len(group.responses) for group, _ in self.rows)

    def halves(self) -> Sequence["Single"]:
        if len(self.rows) > 1:
            return [Single(half) for half in _halved(self.rows)]
        ((group, point),) = self.rows
        return [Single([(Group(group.prompt, tuple(half)), point)]) for half in _halved(group.responses)]

    def __str__(self) -> str:
        return f"scored {len(self.rows)} rows of up to {max(group.tokens for group, _ in self.rows)} tokens"


@dataclass(frozen=True)
class Mixed:
    """Responses to one prompt under mixtures of several points."""

    requests: Sequence[ScoreRequest]

    def __call__(self, bank: Bank, room: Room) -> list[float]:
        return room.scores.of(self, lambda part: part._found(bank))

    def _found(self, bank: Bank) -> list[float]:
        responses = _numbered(each.response for each in self.requests)
        mixtures = _numbered(each.mixture for each in self.requests)
        found = mixture_logprobs(bank, Group(self.requests[0].prompt, tuple(responses)), list(mixtures))
        return [found[mixtures[each.mixture]][responses[each.response]] for each in self.requests]

    def __len__(self) -> int:
        return len(self.requests)

    def halves(self) -> Sequence["Mixed"]:
        return [Mixed(half) for half in _halved(self.requests)]

    def __str__(self) -> str:
        points = {point for each in self.requests for point in each.mixture.points}
        longest = max(len(each.response) for each in self.requests)
        return f"scored {len(self.requests)} responses of up to {longest} tokens under mixtures of {len(points)} points"


def _numbered(values: Iterable[Value]) -> dict[Value, int]:
    """The different ones in order of appearance, with their places."""
    return {value: place for place, value in enumerate(dict.fromkeys(values))}


@dataclass(frozen=True)
class Knee:
    """`Bank.knee`, as a batch of one unit."""

    def __call__(self, bank: Bank, room: Room) -> list[int | None]:
        return [bank.knee]

    def __len__(self) -> int:
        return 1

    def halves(self) -> Sequence[Batch]:
        return ()

    def __str__(self) -> str:
        return "loaded the model"


def _halved(units: Sequence[Value]) -> list[Sequence[Value]]:
    middle = len(units) // 2
    return [units[:middle], units[middle:]] if middle else []


class Batched(ABC):
    """Plans batches by `execution`."""

    at_once = 1
    """Batches that are computed at the same time."""
    refills = REFILLS

    def __init__(self, execution: Execution) -> None:
        self.execution = execution

    def generate(
        self,
        span: Span,
        requests: Sequence[Request],
        decoding: Decoding,
        limit: int,
        stops: Collection[int],
        done: Collection[int] = NONE,
    ) -> Iterator[tuple[int, Generated]]:
        span.check(request.mixture for request in requests)
        plan: list[tuple[Units, Batch]] = []
        if len(done) < len(requests):
            rows = rows_for(self.execution, self._bank_of(span), span, requests, limit)
            for units in text_plan(requests, self._wide(requests, rows), span.apart):
                plan.append((units, Texts([requests[unit] for unit in units], decoding, limit, stops, rows)))
        yield from self._remaining(span, plan, done)

    def score(
        self, span: Span, requests: Sequence[ScoreRequest], done: Collection[int] = NONE
    ) -> Iterator[tuple[int, float]]:
        span.check(request.mixture for request in requests)
        plan: list[tuple[Units, Batch]] = []
        if len(done) < len(requests):
            longest = max(len(each.prompt) + len(each.response) for each in requests)
            tokens = tokens_for(self.execution, self._bank_of(span), span, longest)
            plan = score_plan(requests, self._knee(span), tokens, span.apart)
        yield from self._remaining(span, plan, done)

    def _bank_of(self, span: Span) -> Bank | None:
        """That of the span's model, if it is in this process."""
        return None

    def _wide(self, requests: Sequence[Request], rows: int) -> int:
        """Rows of a batch of texts: several times as many as are decoded at once, where there are batches for all."""
        asked = sum(len(each.mixture.points) for each in requests)
        share = asked if self.at_once == 1 else asked // (2 * self.at_once)
        return rows * max(1, min(self.refills, math.ceil(share / rows)))

    def _remaining(
        self, span: Span, plan: Sequence[tuple[Units, Batch]], done: Collection[int]
    ) -> Iterator[tuple[int, Any]]:
        known = frozenset(done)
        left = [(units, batch) for units, batch in plan if not known.issuperset(units)]
        for index, results in self._computed(span, [batch for _, batch in left]):
            for unit, result in zip(left[index][0], results, strict=True):
                if unit not in known:
                    yield unit, result

    def _knee(self, span: Span) -> int | None:
        ((_, (found,)),) = self._computed(span, [Knee()])
        return found

    @abstractmethod
    def _computed(self, span: Span, batches: Sequence[Batch]) -> Iterator[tuple[int, Sequence[Any]]]:
        """(index of a batch, what it gives), in any order; nothing is started where there are none."""


def text_plan(requests: Sequence[Request], rows: int, apart: bool = False) -> list[Units]:
    """Batches of one divergence and of neighbouring lengths, of at most `rows` rows or a single request; of the same
    points alone where they are computed `apart`.
    """

    def alike(unit: int) -> tuple[Any, ...]:
        mixture = requests[unit].mixture
        return mixture.divergence, mixture.points if apart else ()

    def similar(unit: int) -> tuple[Any, ...]:
        return *alike(unit), len(requests[unit].prompt), requests[unit].prompt

    plan: list[list[int]] = []
    room = 0
    for unit in sorted(range(len(requests)), key=similar):
        mixture = requests[unit].mixture
        if not plan or len(mixture.points) > room or alike(plan[-1][0]) != alike(unit):
            plan.append([])
            room = rows
        plan[-1].append(unit)
        room -= len(mixture.points)
    return [tuple(units) for units in plan]


def score_plan(
    requests: Sequence[ScoreRequest], knee: int | None, tokens: int, apart: bool = False
) -> list[tuple[Units, Batch]]:
    """Responses to one prompt under one point share a row where it pays (`worth_sharing`), and so they do under the
    points of mixtures, which then serve all of these. A batch is of one point where they are computed `apart`.
    """
    together: dict[tuple[tuple[int, ...], Point], list[int]] = {}
    mixed: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for unit, (prompt, response, mixture) in enumerate(requests):
        if len(mixture.points) == 1:
            together.setdefault((prompt, mixture.points[0]), []).append(unit)
        else:
            mixed.setdefault(prompt, {}).setdefault(response, []).append(unit)
    rows: list[tuple[Units, Group, Point]] = []
    for (prompt, point), units in together.items():
        order = iter(units)
        for group in worth_sharing(Group(prompt, tuple(requests[unit].response for unit in units)), knee):
            rows.append((tuple(next(order) for _ in group.responses), group, point))
    plan: list[tuple[Units, Batch]] = []
    shared: dict[Point, list[tuple[Units, Group, Point]]] = {}
    for row in rows:
        shared.setdefault(row[2] if apart else (), []).append(row)
    for alike in shared.values():
        for indices in batches([group.tokens for _, group, _ in alike], tokens):
            batch = tuple(unit for index in indices for unit in alike[index][0])
            plan.append((batch, Single([alike[index][1:] for index in indices])))
    for prompt, by_response in mixed.items():
        for group in worth_sharing(Group(prompt, tuple(by_response)), knee):
            units = [unit for response in group.responses for unit in by_response[response]]
            for part in _of_few_points(requests, units, tokens // group.tokens):
                plan.append((part, Mixed([requests[unit] for unit in part])))
    return plan


def _of_few_points(requests: Sequence[ScoreRequest], units: Sequence[int], most: int) -> Iterator[Units]:
    """The units, one mixture's after another's, in parts whose mixtures have at most so many points; a mixture of more
    has a part of its own.
    """
    by_mixture: dict[Mixture, list[int]] = {}
    for unit in units:
        by_mixture.setdefault(requests[unit].mixture, []).append(unit)
    part: list[int] = []
    points: set[Point] = set()
    for mixture, mine in by_mixture.items():
        if part and len(points | set(mixture.points)) > most:
            yield tuple(part)
            part, points = [], set()
        part += mine
        points |= set(mixture.points)
    if part:
        yield tuple(part)
