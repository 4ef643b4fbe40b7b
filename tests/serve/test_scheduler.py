"""The scheduler: what goes wrong with one who asks is its own, and prompts are read once, in portions."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from sipo.bank import Adapter, Bank, Policy
from sipo.decoding import Mixture, Request, at_mod, at_soup, decode, running
from sipo.methods.interface import Aligned
from sipo.serve.scheduler import Ask, Room, Scheduler, Written
from sipo.serve.wire import ApiError
from sipo.settings import Decoding

STEM = tuple(range(10, 30))
HOW, NEW = Decoding(temperature=0), 8
Kind = tuple[tuple[int, ...], Sequence[Policy], Mixture]


class Nobody:
    def first(self, seconds: float) -> None:
        pass

    def tokens(self, count: int) -> None:
        pass


@pytest.fixture
def scheduler(bank: Bank, policies: list[Adapter]) -> Iterator[Scheduler]:
    made = Scheduler(bank, (-1,), Room(rows=64, tokens=1 << 20, waiting=64))
    made.start(policies)
    yield made
    made.close()


def answered(scheduler: Scheduler, kinds: Sequence[Kind], hear: Callable[[int], None] = lambda _: None) -> list[Any]:
    """Tokens, or what was said in their place, of asks that come together; `hear` is told whose tokens come."""

    async def one(place: int, ask: Ask) -> Any:
        tokens: list[int] = []
        while isinstance(event := await ask.events.get(), Written):
            tokens += event.tokens
            hear(place)
        return event.message if isinstance(event, ApiError) else tuple(tokens)

    async def all_of_them() -> list[Any]:
        until = time.monotonic() + 60
        asks = [
            Ask(Aligned(tuple(own), mixture), prompt, 0, HOW, NEW, None, until, Nobody())
            for prompt, own, mixture in kinds
        ]
        scheduler.submit(asks)
        return list(await asyncio.gather(*(one(place, ask) for place, ask in enumerate(asks))))

    return asyncio.run(all_of_them())


def portions(scheduler: Scheduler, most: int) -> Callable[[int], Any]:
    """Reading in portions of so many tokens, however fast it goes."""
    read = scheduler._batch.read
    return lambda _: read(most)


def alone(bank: Bank, kind: Kind) -> tuple[int, ...]:
    prompt, own, mixture = kind
    with bank.mounted(own):
        return decode(bank, [Request(prompt, mixture)], HOW, NEW, (-1,))[0].tokens


def spoiled(policy: Adapter, by: float) -> Adapter:
    """The same with one number of each factor replaced."""
    factors = {name: (a.clone(), b.clone()) for name, (a, b) in policy.factors.items()}
    for pair in factors.values():
        for factor in pair:
            factor[0, 0] = by
    return Adapter(factors, policy.scaling)


@pytest.mark.parametrize("by", [float("nan"), float("inf")])
def test_a_policy_that_is_not_finite_fails_those_who_ask_for_it(bank: Bank, policies: list[Adapter], by: float) -> None:
    good: Kind = (STEM[:7], policies, at_mod((0.2, 0.3, 0.5)))
    bad: Kind = (STEM, [spoiled(policies[0], by), *policies[1:]], at_mod((0.2, 0.3, 0.5)))
    unfit: Kind = (STEM, [Adapter({"nowhere": (torch.ones(1, 2), torch.ones(2, 1))}, 1.0)], at_soup((1.0,)))
    expected = alone(bank, good)
    made = Scheduler(bank, (-1,), Room(rows=64, tokens=1 << 20, waiting=64))
    made.start(policies)
    try:
        found = answered(made, [good, bad, unfit, good])
        assert found[0] == found[3] == expected
        assert "holds NaN or infinite numbers" in found[1] and "another base" in found[2]
        assert answered(made, [good]) == [expected]
    finally:
        made.close()


def test_what_is_raised_while_a_prompt_is_read_is_for_who_asks_it(
    bank: Bank, policies: list[Adapter], scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: Kind = (STEM[:7], policies, at_mod((0.2, 0.3, 0.5)))
    bad: Kind = (STEM, policies, at_soup((0.2, 0.3, 0.5)))
    read = running.Reading.advance

    def fails(self: Any, most: int | None = None) -> Any:
        if any(request.prompt == STEM for request in self.requests):
            raise MemoryError("too long")
        return read(self, most)

    monkeypatch.setattr(running.Reading, "advance", fails)
    monkeypatch.setattr(scheduler._batch, "read", portions(scheduler, 11))  # so that the long prompt is by itself
    expected, said = answered(scheduler, [good, bad])
    assert "MemoryError: too long" in said
    monkeypatch.undo()
    assert expected == answered(scheduler, [good])[0]
    assert len(expected) == NEW


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_ended(
    policies: list[Adapter], scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends() -> Any:
        raise SystemExit

    monkeypatch.setattr(scheduler._batch, "step", ends)
    kind: Kind = (STEM, policies, at_soup((0.2, 0.3, 0.5)))
    (said,) = answered(scheduler, [kind])
    assert "stopping" in said
    scheduler._thread.join(20)
    assert not scheduler.alive and scheduler.idle
    with pytest.raises(ApiError) as refused:
        answered(scheduler, [kind])
    assert refused.value.status == 503


def test_a_prompt_is_read_once_a_policy(bank: Bank, policies: list[Adapter], scheduler: Scheduler) -> None:
    """However many choices it has, and at however many weights."""
    weights = ((0.2, 0.3, 0.5), (0.5, 0.2, 0.3), (0.1, 0.1, 0.8))
    kinds: list[Kind] = [(STEM, policies, at_mod(each)) for each in weights] * 2
    before = bank.computed
    found = answered(scheduler, kinds)
    assert bank.computed - before == 3 * len(STEM) + 3 * len(kinds) * (NEW - 1)
    assert found[:3] == found[3:] and len(set(found)) > 1


def test_a_long_prompt_is_read_while_others_write(
    bank: Bank, policies: list[Adapter], scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler._batch, "read", portions(scheduler, 8))
    short: Kind = (STEM[:4], policies, at_soup((0.2, 0.3, 0.5)))
    long: Kind = (STEM * 3, policies, at_soup((0.2, 0.3, 0.5)))
    expected, order = [answered(scheduler, [kind])[0] for kind in (short, long)], list[int]()
    assert answered(scheduler, [long, short], order.append) == expected[::-1]
    assert order.index(0) >= 6, "the short one has written meanwhile"


def test_choices_of_an_answer_that_has_begun_are_finished(bank: Bank, policies: list[Adapter]) -> None:
    """Also those that still wait when the server is asked to stop."""
    made = Scheduler(bank, (-1,), Room(rows=3, tokens=1 << 20, waiting=8))
    kind: Kind = (STEM, policies, at_mod((0.2, 0.3, 0.5)))
    expected = alone(bank, kind)
    made.start(policies)
    drained: list[int] = []

    def drain(place: int) -> None:
        drained.append(made.waiting)
        made.drain()

    try:
        assert answered(made, [kind] * 3, drain) == [expected] * 3
    finally:
        made.close()
    assert drained[0] == 2
