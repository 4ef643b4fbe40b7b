"""Batched decoding from mixtures: many prompts, each at its own weight, in the same forwards.

A request is one prompt and one mixture; each point of its mixture is a row of the batch.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sipo.bank import Bank
from sipo.decoding.batch import Request
from sipo.decoding.reading import stem_of
from sipo.decoding.running import Answer, Running
from sipo.finite import SMALLER, NotFiniteError
from sipo.settings import Decoding

REFILL_BELOW = 0.75
"""Others join once no more than this share of the rows is live."""


@dataclass(frozen=True, slots=True)
class Generated:
    tokens: tuple[int, ...]
    """With the end token, if there was one."""
    finished: bool
    """False where the limit cut the response."""


def decode(
    bank: Bank,
    requests: Sequence[Request],
    decoding: Decoding,
    max_new_tokens: int,
    stops: Collection[int],
    watch: Callable[[int, int], None] | None = None,
    rows: int | None = None,
) -> list[Generated]:
    """Answer every request, in order. The bank's mounted policies span the requests' points; a response ends with
    any token of `stops`.

    At most so many `rows` are decoded at once, or those of one request; None takes all. Where enough of them have
    ended, the next requests take their places.

    `watch(request, token)` is told of every token as it is chosen. Equal, up to rounding, to decoding the
    requests one at a time. Raises NotFiniteError for the first logits that are not finite.
    """
    answers = [Answer(request, decoding, max_new_tokens) for request in requests]
    places = {answer: place for place, answer in enumerate(answers)}
    waiting = deque(answers)
    rows = rows or sum(answer.rows for answer in answers)
    refilled = rows < sum(answer.rows for answer in answers)
    running = Running(bank, stops, stem_of(bank, requests, rows) if refilled else None)
    while running or waiting:
        running.join(_next(waiting, running, rows))
        for go_on in (running.read, running.step):
            for answer in go_on():
                if answer.broken:
                    raise NotFiniteError(broken(bank, answer))
                if watch:
                    watch(places[answer], answer.tokens[-1])
    return [Generated(tuple(answer.tokens), answer.ended) for answer in answers]


def _next(waiting: deque[Answer], running: Running, rows: int) -> list[Answer]:
    """Take away those that join now: prompts are read while the others wait, so that is done for several at a time."""
    here = running.rows
    if here and (here > REFILL_BELOW * rows or not running.joins):
        return []
    joining: list[Answer] = []
    while waiting and (not here or here + waiting[0].rows <= rows):
        joining.append(waiting.popleft())
        here += joining[-1].rows
    return joining


def broken(bank: Bank, answer: Answer) -> str:
    """What is wrong, for people."""
    prompt = bank.backbone.tokenizer.decode(list(answer.request.prompt[-60:]))
    return (
        f"no token can be chosen after {len(answer.tokens)} tokens of an answer to the prompt that ends "
        f"{prompt[-60:]!r}: the model's logits are not finite; {SMALLER}"
    )
