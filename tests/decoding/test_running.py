"""The running batch: whoever comes and goes, every text is the one that `decode` writes of its request alone."""

import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from architectures import FAMILIES, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.bank import Adapter, Bank, Policy, new_adapter
from sipo.bank.whole import Whole, parameters_of
from sipo.decoding import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    Divergence,
    Mixture,
    Request,
    at_mod,
    at_soup,
    base,
    decode,
    seed_of,
)
from sipo.decoding.running import Answer, Running
from sipo.models.load import Backbone
from sipo.settings import Decoding, Lora

STEM = tuple(range(10, 22))
PROMPTS = [(5, 6, 7), tuple(range(30, 50)), (8,), (*STEM, 40), (*STEM, 50, 51, 52), STEM]
DIVERGENCES = (REVERSE_KL, FORWARD_KL, Divergence("alpha", 0.5), JENSEN_SHANNON)
MIXTURES = [
    *(at_mod((0.2, 0.3, 0.5), divergence) for divergence in DIVERGENCES),
    *(base(3), at_soup((0.2, 0.3, 0.5)), at_mod((0.0, 1.0, 0.0)), at_mod((0.5, 0.0, 0.5))),
]
HOW = (Decoding(temperature=0), Decoding(temperature=0.8, top_k=40, top_p=0.95), Decoding(temperature=1.3))
NEW = 8


def asked(number: int, mixtures: Sequence[Mixture] = MIXTURES) -> tuple[Request, Decoding, int]:
    """The number-th request, with settings and a limit of its own."""
    prompt, mixture = PROMPTS[number % len(PROMPTS)], mixtures[number % len(mixtures)]
    return Request(prompt, mixture, seed_of(number)), HOW[number % len(HOW)], 1 + (3 * number) % NEW


def written(
    bank: Bank,
    policies: Sequence[Policy],
    requests: Sequence[tuple[Request, Decoding, int]],
    seed: int,
    most: int | None = None,
) -> list[tuple[int, ...]]:
    """All of them in a running batch that they join at random steps; `most` tokens of prompts are read in each."""
    chance = random.Random(seed)
    waiting = [Answer(*each) for each in requests]
    answers = list(waiting)
    with bank.mounted(policies):
        running = Running(bank, (-1,))
        while waiting or running:
            came = [waiting.pop(0) for _ in range(min(len(waiting), chance.choice((0, 0, 1, 2, 5))))]
            running.join(came)
            for told in (running.read(most), running.step()):
                assert len(told) == len(set(told)), "each is told once"
    return [tuple(answer.tokens) for answer in answers]


def finish(running: Running) -> None:
    while running:
        running.read()
        running.step()


@pytest.fixture(scope="module")
def alone(bank: Bank, policies: list[Adapter]) -> list[tuple[int, ...]]:
    """What each of the requests is answered by itself."""
    with bank.mounted(policies):
        return [decode(bank, [request], how, limit, (-1,))[0].tokens for request, how, limit in map(asked, range(33))]


@settings(max_examples=6)
@given(st.integers(0, 10**6), st.sampled_from([None, 1, 7, 30, 100]))
def test_a_text_is_its_request_s_whenever_it_comes(
    bank: Bank, policies: list[Adapter], alone: list[tuple[int, ...]], seed: int, most: int | None
) -> None:
    """However its prompt is read."""
    order = random.Random(seed).sample(range(33), 33)
    found = written(bank, policies, [asked(number) for number in order], seed, most)
    assert found == [alone[number] for number in order]


def whole(bank: Bank, seed: int) -> Whole:
    generator = torch.Generator().manual_seed(seed)
    own = parameters_of(bank.model)
    return Whole({name: each + 0.02 * torch.randn(each.shape, generator=generator) for name, each in own.items()})


def test_whole_models_too(bank: Bank) -> None:
    policies = [whole(bank, seed) for seed in range(3)]
    requests = [asked(number) for number in range(12)]
    with bank.mounted(policies):
        expected = [decode(bank, [request], how, limit, (-1,))[0].tokens for request, how, limit in requests]
    assert written(bank, policies, requests, 3) == expected


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama4", "mpt", "lfm2"])
def test_windows_chunks_and_models_that_cannot_pad(backbone: Backbone, family: str) -> None:
    made = Bank(Backbone(tiny(family), backbone.tokenizer, "tiny"))
    policies = [new_adapter(made.model, Lora(r=2, alpha=4.0), seed) for seed in range(3)]
    for policy in policies:
        for _, up in policy.factors.values():
            up.copy_(0.2 * torch.randn(up.shape, generator=torch.Generator().manual_seed(1)))
    requests = [asked(number) for number in range(10)]
    with made.mounted(policies):
        assert made.routes.mixes == FAMILIES[family].mixes
        expected = [decode(made, [request], how, limit, (-1,))[0].tokens for request, how, limit in requests]
    assert written(made, policies, requests, 5) == expected
    assert written(made, policies, requests, 6, most=9) == expected


@pytest.mark.parametrize("most", [None, 5])
def test_policies_may_come_and_go_while_others_are_asked(bank: Bank, policies: list[Adapter], most: int | None) -> None:
    """What runs, or is being read, goes on in another span, without the policies that nobody asks any more."""
    for a, b, c in (policies, [whole(bank, seed) for seed in range(3)]):
        first, second = Request(STEM, at_mod((0.0, 0.4, 0.6))), Request(STEM, at_mod((0.1, 0.2, 0.7)))
        with bank.mounted([a, b, c]):
            expected = [decode(bank, [first], HOW[0], NEW, (-1,))[0].tokens]
        with bank.mounted([b, c, a]):
            expected += [decode(bank, [second], HOW[0], NEW, (-1,))[0].tokens]
        answers = [Answer(each, HOW[0], NEW) for each in (first, second)]
        with bank.mounted([a, b, c]):
            running = Running(bank, (-1,))
            running.join(answers[:1])
            running.read(most)
            running.step()
            running.step()
        with bank.mounted([b, c]):
            running.respan((1, 2), 2)
            running.step()
        with bank.mounted([b, c, a]):
            running.respan((0, 1), 3)
            running.join(answers[1:])
            finish(running)
        assert [tuple(answer.tokens) for answer in answers] == expected


def test_a_few_tokens_over_a_portion_are_read_with_it(bank: Bank, policies: list[Adapter]) -> None:
    answers = [Answer(Request((place, *STEM[:9]), base(3)), HOW[0], NEW) for place in range(3)]  # 30 tokens
    with bank.mounted(policies):
        for most, read in ((30, 3), (20, 3), (19, 1), (10, 1)):
            running = Running(bank, (-1,))
            running.join([Answer(each.request, each.decoding, NEW) for each in answers])
            assert len(running.read(most)) == read


def test_who_leaves_frees_the_batch_and_changes_nobody(bank: Bank, policies: list[Adapter]) -> None:
    stays, goes = (Answer(Request(p, MIXTURES[0]), HOW[0], NEW) for p in (PROMPTS[0], PROMPTS[1]))
    with bank.mounted(policies):
        expected = decode(bank, [stays.request], HOW[0], NEW, (-1,))[0].tokens
        running = Running(bank, (-1,))
        running.join([stays, goes])
        running.read()
        goes.left = True
        assert len(running) == 1
        before = bank.computed
        finish(running)
        rows = (bank.computed - before) / (NEW - 1)
    assert tuple(stays.tokens) == expected and len(goes.tokens) == 1
    assert rows == len(MIXTURES[0].points), "only the rows of the one that stays are computed"


def test_a_long_request_leaves_no_padding_behind(bank: Bank, policies: list[Adapter]) -> None:
    long, short = Answer(Request(PROMPTS[1], base(3)), HOW[0], 2), Answer(Request(PROMPTS[0], base(3)), HOW[0], NEW)
    with bank.mounted(policies):
        expected = decode(bank, [short.request], HOW[0], NEW, (-1,))[0].tokens
        running = Running(bank, (-1,))
        running.join([long, short])
        running.read()
        running.step()
        running.step()
        (part,) = running._parts
        assert part.answers == [short] and part.batch.layout is None and part.batch.columns == len(PROMPTS[0]) + 2
        finish(running)
    assert tuple(short.tokens) == expected


def test_one_with_broken_logits_is_alone_with_it(bank: Bank) -> None:
    """Of whole models: stacked adapters meet in one product, where a number that is not finite is everybody's."""
    bad = Whole({name: each * float("nan") for name, each in parameters_of(bank.model).items()})
    good = whole(bank, 1)
    sick, sound = (
        Answer(Request(STEM, at_mod((1.0, 0.0))), HOW[0], 4),
        Answer(Request(STEM, at_mod((0.0, 1.0))), HOW[0], 4),
    )
    with bank.mounted([bad, good]):
        running = Running(bank, (-1,))
        running.join([sick, sound])
        assert set(running.read()) == {sick, sound}
        finish(running)
    assert sick.broken and not sick.tokens and len(sound.tokens) == 4


def test_chances_are_the_mixture_s(bank: Bank, policies: list[Adapter]) -> None:
    """Logarithms of the renormalised distribution, whatever temperature the token was drawn at."""
    from sipo.logprobs.mixture import mixture_logprobs
    from sipo.logprobs.packing import Group

    for divergence in DIVERGENCES:
        mixture = at_mod((0.2, 0.3, 0.5), divergence)
        answer = Answer(Request(STEM, mixture, 4), HOW[1], NEW, likeliest=3)
        with bank.mounted(policies), torch.inference_mode():
            running = Running(bank, (-1,))
            running.join([answer])
            finish(running)
            (expected,) = mixture_logprobs(bank, Group(STEM, (tuple(answer.tokens),)), [mixture])
        assert sum(chance.logprob for chance in answer.chances) == pytest.approx(expected[0], abs=1e-3)
        for token, chance in zip(answer.tokens, answer.chances, strict=True):
            found = dict(chance.likeliest)
            assert len(found) == 3 and list(found.values()) == sorted(found.values(), reverse=True)
            assert chance.logprob == found.get(token, chance.logprob) <= max(found.values())


# As many rows as are decoded at once


ENDS = frozenset(range(0, 4000, 6))
"""So that answers end at very different lengths."""


class Forwards:
    """What a bank computes in this block: rows and tokens of each forward."""

    def __init__(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.tokens = 0
        computed = bank.hidden_states

        def noting(points: torch.Tensor, **inputs: Any) -> Any:
            self.rows.append(len(points))
            self.tokens += inputs["input_ids"].numel()
            return computed(points, **inputs)

        monkeypatch.setattr(bank, "hidden_states", noting)


def ending(count: int, prompts: Sequence[tuple[int, ...]] = PROMPTS) -> list[Request]:
    return [Request(prompts[n % len(prompts)], MIXTURES[n % len(MIXTURES)], seed_of(n)) for n in range(count)]


@pytest.mark.parametrize("rows", [1, 5, 8, 1000])
def test_a_text_does_not_depend_on_how_many_rows_are_decoded_at_once(
    bank: Bank, policies: list[Adapter], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, how = ending(40), HOW[1]
    with bank.mounted(policies):
        expected = [decode(bank, [request], how, 12, ENDS)[0] for request in requests]
        assert len({len(each.tokens) for each in expected}) > 4
        seen, told = Forwards(bank, monkeypatch), dict[int, list[int]]()
        found = decode(bank, requests, how, 12, ENDS, lambda at, token: told.setdefault(at, []).append(token), rows)
    assert found == expected
    assert [tuple(told[at]) for at in range(40)] == [each.tokens for each in expected]
    assert max(seen.rows) <= max(rows, 4), "a request of four points is computed whole"


def test_the_next_come_where_others_have_ended(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fewer steps than batches take that wait for their longest."""
    requests = [Request(PROMPTS[n % 3], base(3), seed_of(n)) for n in range(48)]

    def steps() -> int:
        with monkeypatch.context() as here, bank.mounted(policies):
            seen = Forwards(bank, here)
            decode(bank, requests, HOW[2], 24, ENDS, rows=8)
            return len(seen.rows)

    refilled = steps()
    monkeypatch.setattr(sys.modules["sipo.decoding.decode"], "REFILL_BELOW", 0.0)
    assert refilled < 0.75 * steps()


def test_what_all_prompts_begin_with_is_read_once_a_point(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever they come; of policies of any kind."""
    stem = tuple(range(100, 140))
    requests = ending(24, [(*stem, *prompt) for prompt in PROMPTS])
    points = len({point for each in requests for point in each.mixture.points})
    rests = sum(len(set(each.mixture.points)) * (len(each.prompt) - len(stem)) for each in requests)
    for mounted in (policies, [whole(bank, seed) for seed in range(3)]):
        with monkeypatch.context() as here, bank.mounted(mounted):
            expected = [decode(bank, [request], HOW[1], 6, ENDS)[0] for request in requests]
            seen = Forwards(bank, here)
            assert decode(bank, requests, HOW[1], 6, ENDS, rows=6) == expected
        sizes = [len(each.mixture.points) for each in requests]
        written = sum(len(each.tokens) * rows for each, rows in zip(expected, sizes, strict=True))
        assert seen.tokens <= points * len(stem) + 3 * rests + 2 * written, "padding counts as well"


@pytest.mark.parametrize("family", ["gemma3", "llama4", "mpt", "lfm2"])
def test_windows_and_models_that_cannot_pad_are_refilled_as_they_can(backbone: Backbone, family: str) -> None:
    made = Bank(Backbone(tiny(family), backbone.tokenizer, "tiny"))
    layers: tuple[Any, ...] = ("all", "upper", "upper")
    policies = [new_adapter(made.model, Lora(r=2, alpha=4.0, layers=each), 1) for each in layers]
    for policy in policies:
        for _, up in policy.factors.values():
            up.copy_(0.2 * torch.randn(up.shape, generator=torch.Generator().manual_seed(1)))
    for mounted in (policies, policies[1:]):
        mixture = at_mod((1 / len(mounted),) * len(mounted))
        requests = [Request((*STEM, *PROMPTS[n % 5]), mixture, seed_of(n)) for n in range(14)]
        with made.mounted(mounted):
            expected = [decode(made, [request], HOW[1], 8, ENDS)[0] for request in requests]
            assert decode(made, requests, HOW[1], 8, ENDS, rows=6) == expected
