"""Packed scoring against the plain model's log_softmax, the head's gradient, the plan of batches, and the table."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from sipo.bank import Adapter, Bank
from sipo.bank.head import Head
from sipo.bank.policy import Point
from sipo.disk.journal import Journal
from sipo.engines import Local, Span, batched
from sipo.logprobs.head import CHUNK, token_logprobs
from sipo.logprobs.packing import Group, batches, pack, worth_sharing
from sipo.logprobs.score import response_logprobs, score_rows
from sipo.logprobs.table import REFERENCE, LogprobTable, policy, policy_points, soup_at
from sipo.progress import Progress
from sipo.settings import Execution

GROUPS = [
    Group((5, 6, 7), ((8, 9), (10, 11, 12, 13, 14), (8,))),
    Group(tuple(range(30, 52)), ((60, 61, 62), (60, 61, 62, 63))),
    Group((9,), ((1,),)),
    Group((40, 41, 42, 43), ((44, 45), (46,), (44, 45, 46, 47, 48, 49, 50), (51, 52, 53))),
]
POINTS = {"reference": (0.0, 0.0, 0.0), **policy_points(["a", "b", "c"]), "soup:0.2,0.3,0.5": (0.2, 0.3, 0.5)}


@torch.no_grad()
def by_hand(model: PreTrainedModel | PeftModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """log pi(y | x) of one response, alone, from all logits."""
    ids = torch.tensor([[*prompt, *response]])
    logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    places = range(len(prompt) - 1, ids.shape[1] - 1)
    return sum(float(logprobs[at, token]) for at, token in zip(places, response, strict=True))


def scored(bank: Bank, policies: list[Adapter], groups: list[Group], points: list[Point]) -> list[list[float]]:
    with bank.mounted(policies):
        return score_rows(bank, list(zip(groups, points, strict=True)))


def test_packed_rows_equal_each_response_alone(
    bank: Bank, policies: list[Adapter], peft_models: list[PeftModel]
) -> None:
    """Every model scores every group, all in one batch of rows of different lengths."""
    models = {(0.0, 0.0, 0.0): bank.model} | {
        tuple(map(float, row)): m for row, m in zip(torch.eye(3).tolist(), peft_models, strict=True)
    }
    rows = [(group, point) for group in GROUPS for point in models]
    expected = [[by_hand(models[point], g.prompt, y) for y in g.responses] for g, point in rows]
    actual = scored(bank, policies, [g for g, _ in rows], [point for _, point in rows])
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@given(
    st.integers(1, 300),
    st.lists(st.integers(1, 200), min_size=1, max_size=12),
    st.integers(1, 5000),
)
def test_rows_hold_every_response_once_and_in_order(prompt: int, lengths: list[int], knee: int) -> None:
    responses = tuple((i,) * length for i, length in enumerate(lengths))
    rows = list(worth_sharing(Group((0,) * prompt, responses), knee))
    assert tuple(y for row in rows for y in row.responses) == responses
    assert all(len(row.prompt) == prompt and row.responses for row in rows)


@pytest.mark.parametrize(
    ("prompt", "response", "knee"), [(75, 155, 1946), (400, 24, 1946), (30, 500, 1000), (60, 40, 9)]
)
def test_no_other_size_of_row_costs_less_by_much(prompt: int, response: int, knee: int) -> None:
    """Cost for each response of rows of k, tried for every k."""

    def cost(k: int) -> float:
        length = prompt + k * response
        return length * (1 + length / knee) / k

    row = next(worth_sharing(Group((0,) * prompt, ((1,) * response,) * 64), knee))
    assert cost(len(row.responses)) <= 1.15 * min(map(cost, range(1, 65)))


def test_what_shares_a_row_or_a_batch_does_not_matter(bank: Bank, policies: list[Adapter]) -> None:
    soup = POINTS["soup:0.2,0.3,0.5"]
    together = scored(bank, policies, GROUPS, [soup] * len(GROUPS))
    for group, values in zip(GROUPS, together, strict=True):
        for response, value in zip(group.responses, values, strict=True):
            ((alone,),) = scored(bank, policies, [Group(group.prompt, (response,))], [soup])
            assert value == pytest.approx(alone, rel=1e-4, abs=1e-4)
        backwards = Group(group.prompt, group.responses[::-1])
        assert scored(bank, policies, [backwards], [soup])[0][::-1] == pytest.approx(values, rel=1e-4, abs=1e-4)


def test_the_gradient_reaches_the_adapter_as_autograd_has_it(bank: Bank, policies: list[Adapter]) -> None:
    """Through packing and the head's own backward, against a plain forward of every response alone."""
    adapter = policies[0].trainable_copy(bank.device)
    weights = torch.randn(sum(len(g.responses) for g in GROUPS), generator=torch.Generator().manual_seed(1))
    with bank.mounted([adapter]):
        (response_logprobs(bank, pack(GROUPS), torch.ones(len(GROUPS), 1)) * weights).sum().backward()
        mine = [parameter.grad.clone() for parameter in adapter.parameters]
        for parameter in adapter.parameters:
            parameter.grad = None
        total = torch.zeros(())
        responses = [(group.prompt, response) for group in GROUPS for response in group.responses]
        for weight, (prompt, response) in zip(weights, responses, strict=True):
            ids = torch.tensor([[*prompt, *response]])
            hidden = bank.hidden_states(torch.ones(1, 1), input_ids=ids, use_cache=False).last_hidden_state
            logprobs = bank.head(hidden)[0, len(prompt) - 1 : -1].log_softmax(-1)
            total = total + weight * logprobs.gather(-1, torch.tensor(response)[:, None]).sum()
        total.backward()
    for actual, parameter in zip(mine, adapter.parameters, strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-3, atol=1e-3)
        assert parameter.grad.abs().max() > 0.1


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize(
    ("bias", "scale", "cap"), [(False, 1.0, None), (True, 1.0, None), (True, 0.3, None), (True, 2.0, 3.0)]
)
def test_token_logprobs_and_their_gradient(length: int, bias: bool, scale: float, cap: float | None) -> None:
    def as_written(scores: Tensor) -> Tensor:
        return scale * scores if cap is None else cap * torch.tanh(scale * scores / cap)

    generator = torch.Generator().manual_seed(length)
    hidden = torch.randn(length, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 97, (length,), generator=generator)
    upstream = torch.randn(length, generator=generator)
    layer = nn.Linear(16, 97, bias=bias).requires_grad_(False)
    nn.init.normal_(layer.weight, generator=generator)
    expected = as_written(layer(hidden)).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(expected, hidden, upstream)
    actual = token_logprobs(hidden, Head(layer, scale, cap), targets)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(actual, hidden, upstream)[0], gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Head(layer, scale, cap)(hidden), as_written(layer(hidden)), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(hidden, Head(layer, scale, cap), targets), expected)


def test_low_precision_is_summed_in_float32() -> None:
    hidden, layer = torch.randn(5, 16).bfloat16().requires_grad_(), nn.Linear(16, 97, bias=False).bfloat16()
    values = token_logprobs(hidden, Head(layer.requires_grad_(False)), torch.arange(5))
    assert values.dtype == torch.float32
    values.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


def test_a_packed_batch_lists_every_response_token_once() -> None:
    packed = pack(GROUPS)
    responses = [response for group in GROUPS for response in group.responses]
    assert packed.targets.tolist() == [token for response in responses for token in response]
    assert packed.lengths.tolist() == [len(response) for response in responses]
    assert packed.owner.bincount().tolist() == packed.lengths.tolist()
    assert packed.ids.shape == (len(GROUPS), max(group.tokens for group in GROUPS))


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_take_every_index_once_within_the_budget(sizes: list[int], budget: int) -> None:
    plan = list(batches(sizes, budget))
    assert sorted(index for batch in plan for index in batch) == list(range(len(sizes)))
    for batch in plan:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= budget
    longest = [max(sizes[i] for i in batch) for batch in plan]
    assert longest == sorted(longest, reverse=True)
    for batch, following in zip(plan, plan[1:], strict=False):
        assert sizes[batch[0]] * (len(batch) + 1) > budget, "the next one would not have fitted"
        assert following
    assert plan == list(batches(sizes, budget))


# The table


class Counter:
    """Counts what is asked of the model."""

    def __init__(self) -> None:
        self.asked: list[tuple[Point, tuple[int, ...], tuple[int, ...]]] = []
        self.calls: list[int] = []
        """How many responses each was about."""

    def __call__(self, bank: Bank, rows: list[tuple[Group, Point]]) -> list[list[float]]:
        self.calls.append(sum(len(group.responses) for group, _ in rows))
        self.asked += [(point, group.prompt, y) for group, point in rows for y in group.responses]
        return score_rows(bank, rows)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(batched, "score_rows", counter)
    return counter


def fill(
    table: LogprobTable,
    bank: Bank,
    policies: list[Adapter],
    groups: list[Group],
    models: dict[str, Point],
    folder: Path,
) -> None:
    engine, span = Local(Execution(score_tokens=64), bank), Span(bank.backbone.settings, tuple(policies))
    table.fill(engine, span, groups, models, Journal(folder, "score", Progress(quiet=True)))


def test_the_table_asks_only_for_what_is_missing(
    bank: Bank, policies: list[Adapter], counter: Counter, tmp_path: Path
) -> None:
    table = LogprobTable()
    two = {name: POINTS[name] for name in (REFERENCE, policy("a"))}
    fill(table, bank, policies, GROUPS[:2], two, tmp_path / "1")
    assert len(counter.asked) == len(set(counter.asked)) == len(table) == 2 * 5
    fill(table, bank, policies, GROUPS[:2], two, tmp_path / "2")
    assert len(counter.asked) == 10, "nothing is missing"

    wider = [
        Group(GROUPS[0].prompt, (*GROUPS[0].responses, (99, 98))),
        Group(GROUPS[0].prompt, ((99, 98), (97,))),
    ]
    counter.asked.clear()
    fill(table, bank, policies, wider, {**two, policy("b"): POINTS[policy("b")]}, tmp_path / "3")
    new = {(POINTS[name], GROUPS[0].prompt, y) for name in two for y in ((99, 98), (97,))}
    new |= {(POINTS[policy("b")], GROUPS[0].prompt, y) for y in (*GROUPS[0].responses, (99, 98), (97,))}
    assert set(counter.asked) == new and len(counter.asked) == len(new)


def test_the_table_holds_what_scoring_says(bank: Bank, policies: list[Adapter], tmp_path: Path) -> None:
    table = LogprobTable()
    fill(table, bank, policies, GROUPS, POINTS, tmp_path)
    for name, point in POINTS.items():
        for group, values in zip(GROUPS, scored(bank, policies, GROUPS, [point] * len(GROUPS)), strict=True):
            assert table.of(group, [name])[:, 0].tolist() == pytest.approx(values, rel=1e-4, abs=1e-4)


def test_a_torn_filling_goes_on_and_ends_alike(
    bank: Bank, policies: list[Adapter], counter: Counter, tmp_path: Path
) -> None:
    whole = LogprobTable()
    fill(whole, bank, policies, GROUPS, POINTS, tmp_path / "whole")
    calls, counter.calls = counter.calls, []
    journal = Path(".journal") / "score.jsonl"
    lines = (tmp_path / "whole" / journal).read_bytes().splitlines(keepends=True)
    assert len(lines) == sum(calls) == len(whole) and len(calls) > 3
    kept = sum(calls[:2])
    (tmp_path / "torn" / journal).parent.mkdir(parents=True)
    (tmp_path / "torn" / journal).write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
    torn = LogprobTable()
    fill(torn, bank, policies, GROUPS, POINTS, tmp_path / "torn")
    assert counter.calls == calls[2:]
    for group in GROUPS:
        assert (torn.of(group, list(POINTS)) == whole.of(group, list(POINTS))).all()


def test_models_have_names() -> None:
    assert soup_at((0.4, 0.6)) == "soup:0.4,0.6"
    assert policy_points(["a", "b"]) == {"policy:a": (1.0, 0.0), "policy:b": (0.0, 1.0)}
