"""What an engine is asked to write, in parts, and packed until then."""

import tracemalloc
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import sipo.engines.asked
from sipo.decoding import Generated, Request, at_mod, base
from sipo.disk.journal import Journal
from sipo.engines import answer
from sipo.progress import Progress
from sipo.settings import Decoding

MIXTURES = [base(2), at_mod((0.5, 0.5))]
ASKED = [Request((n % 7, n % 5, n), MIXTURES[n % 2], n % 3) for n in range(40)] * 2
"""Each twice."""


def written(request: Request) -> Generated:
    return Generated((sum(request.prompt), len(request.mixture.points), request.seed), request.seed != 1)


class Writing:
    """Answers from the last to the first, and breaks off after so many."""

    def __init__(self, left: int | None = None) -> None:
        self.left, self.calls = left, list[int]()

    def generate(
        self, span: Any, requests: Sequence[Request], *how: Any, done: Collection[int] = ()
    ) -> Iterator[tuple[int, Generated]]:
        *_, done = how
        self.calls.append(len(requests) - len(done))
        for unit in reversed([unit for unit in range(len(requests)) if unit not in done]):
            if self.left == 0:
                raise InterruptedError
            self.left = None if self.left is None else self.left - 1
            yield unit, written(requests[unit])


def answers(engine: Any, requests: Any, folder: Path) -> list[Generated]:
    span: Any = None
    return answer(engine, span, requests, Decoding(), 3, (), Journal(folder, "texts", Progress(quiet=True)))


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
@pytest.mark.parametrize("breaks", [None, 0, 17])
def test_texts_are_asked_for_part_by_part(
    at_once: int, breaks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same however they are cut up, and after a break; and what is done is asked for no more."""
    monkeypatch.setattr(sipo.engines.asked, "AT_ONCE", at_once)
    if breaks is not None:
        with pytest.raises(InterruptedError):
            answers(Writing(breaks), iter(ASKED), tmp_path)
    engine = Writing()
    assert answers(engine, iter(ASKED), tmp_path) == [written(request) for request in ASKED]
    assert sum(engine.calls) == 40 - (breaks or 0)
    assert len(engine.calls) == {1: 40 - (breaks or 0), 10**6: 1}.get(at_once, len(engine.calls))


def test_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    engine = Writing()
    assert answers(engine, [], tmp_path) == [] and not engine.calls


def test_requests_that_are_made_one_by_one_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 bytes a token, and 300 a request: tuples would have 8, and objects of their own the ids above 256."""
    monkeypatch.setattr(sipo.engines.asked, "AT_ONCE", 10_000)
    count, tokens, peaks = 300, 1000, []
    for number in (1, count):
        tracemalloc.start()
        asked = (Request(tuple(range(n, n + tokens)), MIXTURES[0], n) for n in range(number))
        answers(Writing(), asked, tmp_path / str(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / count < 5.5 * tokens
