"""Drafts of single requests: whatever an engine leaves behind, the texts are those of `decode`."""

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sipo.engines
from sipo.bank import Adapter, Bank
from sipo.check import check
from sipo.config.file import parse_config
from sipo.decoding import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    Divergence,
    Generated,
    Request,
    at_mod,
    at_soup,
    base,
    decode,
    seed_of,
)
from sipo.engines import check_engine, opened
from sipo.engines.drafts import BatchRow, Draft, rows_of, settle
from sipo.engines.schedule import Room, drive
from sipo.errors import SipoError
from sipo.settings import Decoding, Execution

GREEDY, SAMPLED = Decoding(temperature=0), Decoding(temperature=0.8, top_k=40, top_p=0.95)
NEW = 8
WIDE = Room(rows=1000, adapters=1000, step_tokens=100_000)
PROMPTS = [(5, 6, 7), tuple(range(30, 50)), (8,)]
DIVERGENCES = [REVERSE_KL, FORWARD_KL, JENSEN_SHANNON, Divergence("alpha", 0.5)]


def asked(divergence: Divergence = REVERSE_KL) -> list[Request]:
    weights = [(0.2, 0.3, 0.5), (0.5, 0.0, 0.5)]
    mixtures = [at_mod(weight, divergence) for weight in weights]
    if divergence == REVERSE_KL:
        mixtures += [base(3), at_soup((0.2, 0.3, 0.5)), at_mod((1.0, 0.0, 0.0))]
    return [Request(p, m, seed_of(p, i)) for i, m in enumerate(mixtures) for p in PROMPTS]


class Careless:
    """Decodes rows by whole forwards, and now and then leaves one out of a step or computes only part of its prompt."""

    def __init__(self, bank: Bank, decoding: Decoding, care: float = 1.0, seed: int = 0) -> None:
        self.bank, self.decoding, self.care, self.rng = bank, decoding, care, random.Random(seed)
        self.rows: dict[BatchRow, list[int]] = {}
        self.most_rows = self.most_points = self.most_tokens = 0

    def ask(self, rows: Sequence[BatchRow]) -> None:
        self.rows.update({row: [] for row in rows})

    def withdraw(self, rows: Sequence[BatchRow]) -> None:
        for row in rows:
            self.rows.pop(row, None)

    def step(self) -> dict[BatchRow, int]:
        there = [row for row in self.rows if self.rng.random() < self.care]
        self.rng.shuffle(there)
        partly = {row for row in there if not self.rows[row] and self.rng.random() > self.care}
        self.most_rows = max(self.most_rows, len(there))
        self.most_points = max(self.most_points, len({row.point for row in there}))
        tokens = [1 if self.rows[row] else len(row.draft.request.prompt) + row.start for row in there]
        self.most_tokens = max(self.most_tokens, sum(tokens))
        if not there:
            return {}
        logits = torch.stack([self._logits(row, row in partly) for row in there])
        settle(logits, [(i, row, len(self.rows[row])) for i, row in enumerate(there)], self.decoding)
        took = {row: int(logits[i].argmax()) for i, row in enumerate(there) if row not in partly}
        for row, token in took.items():
            self.rows[row].append(token)
            if token in row.draft.stops or row.start + len(self.rows[row]) == row.draft.limit:
                del self.rows[row]
        return took

    def _logits(self, row: BatchRow, partly: bool) -> torch.Tensor:
        text = [*row.draft.request.prompt, *row.draft.tokens[: row.start], *self.rows[row]]
        ids = torch.tensor([text[: len(text) // 2] or [0] if partly else text])
        with torch.no_grad():
            hidden = self.bank.hidden_states(torch.tensor([row.point]), input_ids=ids, use_cache=False)
            return self.bank.head(hidden.last_hidden_state[0, -1])


def driven(
    bank: Bank,
    requests: list[Request],
    decoding: Decoding,
    end: int,
    room: Room = WIDE,
    care: float = 1.0,
    seed: int = 0,
) -> tuple[list[Generated], int, Careless]:
    engine = Careless(bank, decoding, care, seed)
    drafts = [Draft(request, NEW, (end,)) for request in requests]
    fallen = drive(engine, drafts, room)
    assert not engine.rows, "no row is left"
    return [draft.generated for draft in drafts], fallen, engine


@pytest.fixture(scope="module")
def end(bank: Bank, policies: list[Adapter]) -> int:
    """A token that ends some of the texts early."""
    with bank.mounted(policies):
        return decode(bank, asked()[:1], SAMPLED, NEW, ())[0].tokens[3]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=[each.kind for each in DIVERGENCES])
def test_an_engine_in_step_writes_what_decode_writes(
    bank: Bank, policies: list[Adapter], end: int, divergence: Divergence, decoding: Decoding
) -> None:
    with bank.mounted(policies):
        expected = decode(bank, asked(divergence), decoding, NEW, (end,))
        actual, fallen, _ = driven(bank, asked(divergence), decoding, end)
    assert actual == expected and fallen == 0


@pytest.mark.parametrize("divergence", [REVERSE_KL, JENSEN_SHANNON], ids=["reverse", "jensen-shannon"])
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.98, 0.9, 0.8]))
def test_drafts_that_fall_out_of_step_are_completed_alike(
    bank: Bank, policies: list[Adapter], end: int, divergence: Divergence, seed: int, care: float
) -> None:
    with bank.mounted(policies):
        expected = decode(bank, asked(divergence), SAMPLED, NEW, (end,))
        actual, fallen, _ = driven(bank, asked(divergence), SAMPLED, end, care=care, seed=seed)
    assert actual == expected
    assert fallen > 0 or care > 0.9


def test_what_enters_a_step_fits_it(bank: Bank, policies: list[Adapter], end: int) -> None:
    room = Room(rows=5, adapters=4, step_tokens=70)
    with bank.mounted(policies):
        actual, _, engine = driven(bank, asked(), GREEDY, end, room)
        assert actual == decode(bank, asked(), GREEDY, NEW, (end,))
    assert 3 < engine.most_rows <= 5 and 1 < engine.most_points <= 4 and 60 <= engine.most_tokens <= 70


def test_a_draft_larger_than_the_room_runs_alone(bank: Bank, policies: list[Adapter], end: int) -> None:
    with bank.mounted(policies):
        actual, fallen, engine = driven(bank, asked(), GREEDY, end, Room(rows=2, adapters=1, step_tokens=4))
        assert actual == decode(bank, asked(), GREEDY, NEW, (end,))
    assert engine.most_rows == 3 and fallen == 0


@pytest.mark.parametrize("taken", [0, 1])
def test_an_engine_that_never_has_all_rows_is_an_error(taken: int) -> None:
    class Narrow(Careless):
        def step(self) -> dict[BatchRow, int]:
            return dict.fromkeys(list(self.rows)[:taken], 3)

    drafts = [Draft(request, NEW, ()) for request in asked()[:1]]
    with pytest.raises(SipoError, match="cannot keep 3 rows of 3 tokens in step"):
        drive(Narrow(None, GREEDY), drafts, WIDE)  # type: ignore[arg-type]


def test_only_whole_drafts_are_settled() -> None:
    mod, alone = (Draft(Request((1, 2), m), NEW, ()) for m in (at_mod((0.5, 0.5)), base(2)))
    first, second = rows_of(mod)
    (only,) = rows_of(alone)
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    for standing in ([(0, first, 0), (1, only, 0)], [(0, first, 0), (1, only, 0), (2, second, 1)]):
        mod.chosen = alone.chosen = None
        changed = logits.clone()
        settle(changed, standing, GREEDY)
        assert mod.chosen is None and alone.chosen == int(logits[1].argmax())
        assert torch.equal(changed[[0, 2]], logits[[0, 2]])
        assert changed[1].exp().tolist() == [float(i == alone.chosen) for i in range(9)]
    settle(changed := logits.clone(), [(0, second, 0), (2, first, 0)], GREEDY)
    best = int(logits[[0, 2]].log_softmax(-1).mean(0).argmax())
    assert mod.chosen == best == int(changed[0].argmax()) == int(changed[2].argmax())
    assert torch.equal(changed[1], logits[1])


def test_a_draft_keeps_its_place_in_its_own_noise() -> None:
    draft = Draft(Request((1,), base(0), seed=5), NEW, ())
    fresh = Draft(Request((1,), base(0), seed=5), NEW, ())
    for each in (draft, fresh):
        each.chosen = 4
        each.commit()
    assert torch.equal(draft.noise, fresh.noise) and draft.prompt == (1, 4) and rows_of(draft)[0].start == 1


def test_without_vllm_one_line_says_how_to_get_it(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sipo.engines, "find_spec", lambda _: None)
    check_engine(Execution())
    for use in (check_engine, lambda execution: opened(execution, bank).__enter__()):
        with pytest.raises(
            SipoError, match=r"execution.engine: vllm is not installed; `.* -m pip install 'vllm<[\d.]+,>=[\d.]+'`"
        ):
            use(Execution(engine="vllm"))


def test_a_run_without_its_engine_stops_before_any_work(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sipo.engines, "find_spec", lambda _: None)
    settings["execution"]["engine"] = "vllm"
    config = parse_config(settings, "settings")
    for begin in (check, sipo.run):
        with pytest.raises(SipoError, match="vllm is not installed"):
            begin(config)
    assert not config.run_dir.exists()
