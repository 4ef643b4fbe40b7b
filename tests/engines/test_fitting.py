"""Rows and tokens follow the memory, and texts do not follow them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sipo.bank import Adapter, Bank
from sipo.bank.whole import Whole, parameters_of
from sipo.decoding import Request, at_mod, at_soup, base, seed_of
from sipo.engines import Local, Span, batched, fitting
from sipo.engines.fitting import rows_asked, rows_for, rows_free, tokens_for
from sipo.logprobs.score import ScoreRequest
from sipo.models import room
from sipo.models.footprint import decoding_bytes, shape
from sipo.settings import Decoding, Execution

AUTO = Execution(device="cpu")
PROMPTS = [tuple(range(20, 25 + length)) for length in range(9)]
MIXTURES = (base(3), at_soup((0.2, 0.3, 0.5)), at_mod((0.5, 0.3, 0.2)))
REQUESTS = [Request(prompt, m, seed_of(prompt)) for prompt in PROMPTS for m in MIXTURES]
LIMIT = 6


@pytest.fixture
def span(bank: Bank, policies: list[Adapter]) -> Span:
    return Span(bank.backbone.settings, tuple(policies))


@pytest.fixture
def memory(bank: Bank, span: Span, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has the machine hold so many of these rows beside the model and its policies."""

    def hold(rows: float) -> None:
        of = shape(bank.model)
        held = of.weights + sum(each.numel() for policy in span.loaded for each in policy.parameters) * of.bytes
        needed = held + decoding_bytes(of, 1, max(map(len, PROMPTS)), LIMIT) * rows
        monkeypatch.setattr(fitting, "memory_of", lambda device: needed / 0.9)

    return hold


@pytest.mark.parametrize("rows", [0.2, 1.01, 4.5, 12.01])
def test_as_many_rows_are_decoded_as_the_machine_holds_with_the_same_texts(
    bank: Bank, span: Span, rows: float, memory: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = (span, REQUESTS, Decoding(temperature=1.0), LIMIT, (7,))
    plenty = dict(Local(AUTO, bank).generate(*asked))
    memory(rows)
    planned, decode, at_once = max(1, int(rows)), batched.decode, list[int]()

    def noting(*args: Any, rows: int) -> Any:
        at_once.append(rows)
        return decode(*args, rows=rows)

    monkeypatch.setattr(batched, "decode", noting)
    assert rows_for(AUTO, bank, span, REQUESTS, LIMIT) == planned
    assert dict(Local(AUTO, bank).generate(*asked)) == plenty
    assert max(at_once) == planned
    assert len(at_once) == -(-len(REQUESTS) * 5 // (3 * batched.REFILLS * planned)) or planned < 3


def test_what_is_free_bounds_what_is_in_flight_and_not_the_plan(
    bank: Bank, span: Span, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = rows_for(AUTO, bank, span, REQUESTS, LIMIT)
    each = decoding_bytes(shape(bank.model), 1, max(map(len, PROMPTS)), LIMIT)
    monkeypatch.setattr(fitting, "free_memory", lambda device: 3.5 * each / 0.9)
    assert rows_for(AUTO, bank, span, REQUESTS, LIMIT) == planned == 64
    assert rows_free(AUTO, bank, REQUESTS, LIMIT) == 3
    pool = Execution(device="cpu", engine="pool", workers=3)
    assert rows_free(pool, bank, REQUESTS, LIMIT) == 1
    given = Execution(device="cpu", decode_rows=50)
    assert rows_free(given, bank, REQUESTS, LIMIT) == 50 == rows_for(given, bank, span, REQUESTS, LIMIT)


def test_longer_texts_larger_policies_and_more_processes_leave_fewer(
    bank: Bank, span: Span, memory: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(30.5)
    assert rows_for(AUTO, bank, span, REQUESTS, LIMIT) == 30
    assert 10 < rows_for(AUTO, bank, span, REQUESTS, 3 * LIMIT) < 30
    own = parameters_of(bank.model)
    whole = Span(span.model, (Whole({name: each + 1 for name, each in own.items()}),))
    assert rows_for(AUTO, bank, whole, REQUESTS, LIMIT) < 30
    pool = Execution(device="cpu", engine="pool", workers=2)
    assert rows_for(pool, bank, span, REQUESTS, LIMIT) < 15
    with monkeypatch.context() as launched:
        launched.setattr(fitting, "joined", lambda: SimpleNamespace(count=2))
        assert rows_for(AUTO, bank, span, REQUESTS, LIMIT) < 15
    assert rows_for(AUTO, None, span, REQUESTS, LIMIT) == rows_asked(AUTO) == 64, "of a model that is elsewhere"
    assert tokens_for(AUTO, bank, span, 20) < 4096 == tokens_for(AUTO, None, span, 20)
    assert tokens_for(Execution(score_tokens=9), bank, span, 20) == 9


def test_scores_do_not_depend_on_the_memory(bank: Bank, span: Span, memory: Callable[[float], None]) -> None:
    requests = [ScoreRequest(p, (40, 41, 42), m) for p in PROMPTS for m in MIXTURES]
    plenty = dict(Local(AUTO, bank).score(span, requests))
    memory(0.5)
    assert tokens_for(AUTO, bank, span, 20) < 60
    found = dict(Local(AUTO, bank).score(span, requests))
    assert [found[unit] for unit in found] == pytest.approx([plenty[unit] for unit in found], abs=1e-3)


def test_a_container_s_limit_is_heeded_less_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for files that it would let go of."""
    monkeypatch.setattr(room, "CONTAINER", tmp_path)
    unlimited = room.free_memory(torch.device("cpu"))
    assert 0 < unlimited <= room.machine_memory()
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("7000000\n")
    (tmp_path / "memory.stat").write_text("anon 5500000\ninactive_file 1500000\n")
    assert room.machine_memory() == 9_000_000 and room.free_memory(torch.device("cpu")) == 3_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_memory(torch.device("cpu")) > 9_000_000
