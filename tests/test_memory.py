"""Full memory, injected: what does not fit is done in halves, with the same results, and said once."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sipo.bank import Adapter, Bank
from sipo.decoding import Request, at_mod, at_soup, base
from sipo.engines import Local, Span
from sipo.engines import batched as batching
from sipo.engines.batched import Texts
from sipo.logprobs.score import ScoreRequest
from sipo.memory import Pieces
from sipo.settings import Decoding, Execution

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")


def narrow(compute: Callable[..., Any], place: int, most: int, tried: list[int]) -> Callable[..., Any]:
    """The same, with memory for so many of what the argument at `place` holds."""

    def computed(*args: Any, **named: Any) -> Any:
        tried.append(len(args[place]))
        if len(args[place]) > most:
            raise FULL
        return compute(*args, **named)

    return computed


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "sipo.memory")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "sipo.memory"]


@pytest.fixture
def engine(bank: Bank) -> Local:
    return Local(Execution(device="cpu", decode_rows=24, score_tokens=600), bank)


@pytest.fixture
def span(bank: Bank, policies: list[Adapter]) -> Span:
    return Span(bank.backbone.settings, tuple(policies))


PROMPTS = [tuple(range(20, 25 + length)) for length in range(7)]


def test_texts_that_do_not_fit_are_written_in_halves(
    engine: Local, span: Span, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = (base(3), at_soup((0.2, 0.3, 0.5)), at_mod((0.5, 0.3, 0.2)))
    requests = [Request(prompt, m, seed) for seed, prompt in enumerate(PROMPTS) for m in mixtures]
    asked: Any = (span, requests, Decoding(temperature=1.0), 6, (7,))
    whole, tried = dict(engine.generate(*asked)), list[int]()
    monkeypatch.setattr(batching, "decode", narrow(batching.decode, 1, 3, tried))
    assert dict(engine.generate(*asked)) == whole
    assert max(tried) > 6 and sum(size > 3 for size in tried) == 2, "what has not fitted once is not tried again"
    (line,) = said()
    assert line.startswith("the memory does not hold") and "execution.decode_rows" in line


def test_scores_that_do_not_fit_are_found_in_halves(
    engine: Local, span: Span, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = [(40, 41, 42), (50, 51), (60,)]
    mixtures = (at_soup((1.0, 0.0, 0.0)), at_mod((0.5, 0.3, 0.2)), at_mod((0.2, 0.3, 0.5)))
    requests = [ScoreRequest(p, r, m) for p in PROMPTS for r in responses for m in mixtures]
    whole, tried = dict(engine.score(span, requests)), list[int]()
    monkeypatch.setattr(batching, "score_rows", narrow(batching.score_rows, 1, 2, tried))
    monkeypatch.setattr(batching, "mixture_logprobs", narrow(batching.mixture_logprobs, 2, 1, tried))
    found = dict(engine.score(span, requests))
    assert found.keys() == whole.keys() and max(tried) > 2
    assert [found[unit] for unit in found] == pytest.approx([whole[unit] for unit in found], abs=1e-3)
    assert len(said()) == 1 and "execution.score_tokens" in said()[0]


def test_one_that_does_not_fit_alone_is_the_error(engine: Local, span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "decode", narrow(batching.decode, 1, 0, []))
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        list(engine.generate(span, [Request(p, base(3)) for p in PROMPTS], Decoding(), 3, ()))


def test_other_errors_are_not_taken_for_it() -> None:
    pieces = Pieces(8, "rows", "execution.decode_rows")

    def broken(batch: Texts) -> list[int]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        pieces.of(Texts([Request(p, base(3)) for p in PROMPTS], Decoding(), 3, ()), broken)
    assert pieces.size == 8
