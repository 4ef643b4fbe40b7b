"""Rows and tokens follow the memory, and texts do not follow them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sipo import ranks, room
from sipo.bank import Adapter, Bank
from sipo.bank.whole import Whole, parameters_of
from sipo.decoding import Request, at_mod, at_soup, base, seed_of
from sipo.engines import Local, Span, batched, fitting
from sipo.engines.fitting import rows_asked, rows_for, rows_free, tokens_for
from sipo.logprobs.score import ScoreRequest
from sipo.models.footprint import decoding_bytes, shape
from sipo.settings import Decoding, Execution
from sipo.settings.running import Ray

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
        monkeypatch.setattr(ranks, "memory_of", lambda device: needed / 0.9)

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
    for engine in ("pool", "ray"):
        spread = Execution(device="cpu", engine=engine, workers=3, ray=Ray(actors=3))
        assert rows_free(spread, bank, REQUESTS, LIMIT) == 1
        assert rows_free(spread.here, bank, REQUESTS, LIMIT) == 3, "what is computed here is no worker's"
    with monkeypatch.context() as launched:
        launched.setattr(fitting, "joined", lambda: SimpleNamespace(here=3))
        assert rows_free(AUTO, bank, REQUESTS, LIMIT) == 1
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
    each = ranks.memory_of(torch.device("cpu")) / 2
    with monkeypatch.context() as launched:
        launched.setattr(ranks, "joined", lambda: SimpleNamespace(memory=each))
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


CPU = torch.device("cpu")
LIMITS: list[tuple[str, dict[str, int], int, int]] = [
    ("", {".": 9}, 9, 4),
    ("0::/\n", {".": 9}, 9, 4),
    ("0::/system.slice/job/step\n", {"system.slice/job": 9, "system.slice/job/step": 12}, 9, 4),
    ("0::/system.slice/job/step\n", {"system.slice": 30, "system.slice/job/step": 8}, 8, 3),
    ("0::/a/b\n", {".": 7, "a": 8, "a/b": 9}, 7, 2),
    ("0::/a\n", {"a": 9, "other": 6}, 9, 4),
    ("0::/of/the:host\n", {".": 9}, 9, 4),
    ("0::/../beside\n", {".": 9, "beside": 6}, 9, 4),
    ("4:memory:/slurm/job\n1:cpu:/slow\n0::/\n", {"memory/slurm": 9, "memory/slow": 6, "slurm": 6}, 9, 4),
    ("4:cpu,memory:/docker/id\n", {"memory": 9}, 9, 4),
    ("1:name=systemd:/a\n", {"a": 6, "memory": 9}, 9, 4),
]
"""Lines of a process, megabytes of groups of which 5 are taken by what is not let go of; those that hold, and are free."""


@pytest.mark.parametrize(("lines", "groups", "most", "free"), LIMITS)
def test_the_least_limit_of_all_groups_around_a_process_holds(
    lines: str, groups: dict[str, int], most: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container, of a batch system's job, of a service, in both versions, less what it holds, but for files that
    would be let go of; a group that is not above the process has no say.
    """
    (tmp_path / "lines").write_text(lines)
    monkeypatch.setattr(room, "CONTAINER", tmp_path)
    monkeypatch.setattr(room, "GROUPS", tmp_path / "lines")
    unlimited = room.machine_memory()
    assert 0 < room.free_memory(CPU) <= unlimited
    for name, limit in groups.items():
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        first = name.startswith("memory")
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}000000\n")
        (folder / ("memory.usage_in_bytes" if first else "memory.current")).write_text("7000000\n")
        files = f"{'total_' if first else ''}inactive_file 2000000\n"
        (folder / "memory.stat").write_text(
            f"inactive_anon 5500000\n{'inactive_file 1' if first else ''}\n{files}".replace("\n\n", "\n")
        )
    assert room.machine_memory() == most * 10**6
    assert room.free_memory(CPU) == free * 10**6
    for each in tmp_path.rglob("memory.max"):
        each.write_text("max\n")
    for each in tmp_path.rglob("memory.limit_in_bytes"):
        each.write_text(f"{2**63 - 4096}\n")
    assert room.machine_memory() == unlimited and room.free_memory(CPU) > 10 * most * 10**6


def test_ranks_share_the_memory_of_their_own_machine() -> None:
    """And all plan by the least share, whichever is theirs."""
    machines = [("a", 100), ("b", 60), ("a", 100), ("c", 31), ("a", 90)]
    for rank, here in enumerate((3, 1, 3, 1, 3)):
        one = ranks.Ranks.__new__(ranks.Ranks)
        one.rank, one.machines = rank, machines
        assert (one.here, one.memory) == (here, 30)
