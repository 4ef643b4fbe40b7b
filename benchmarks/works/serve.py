"""Serving: requests at different weights in one running batch, against the same asked together and one after the other.

Ours is the scheduler, without HTTP.
"""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.alternatives import plain
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod
from sipo.methods.interface import Aligned
from sipo.serve.scheduler import Ask, Room, Scheduler, Written
from sipo.settings import Decoding

ONE_BY_ONE = 2
"""Requests that the route one after the other answers under --quick."""


class First:
    """The times to the first token."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def first(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def tokens(self, count: int) -> None:
        pass


def run(bench: Bench) -> list[Record]:
    return _streams(bench, "serve", bench.settings.batch)


def alone(bench: Bench) -> list[Record]:
    return _streams(bench, "serve-alone", 1)


def _streams(bench: Bench, work: str, streams: int) -> list[Record]:
    settings = bench.settings
    n, new = settings.n, settings.new_tokens
    prompts, weights = bench.prompts(streams), bench.weights(streams)
    requests = [Request(prompt, at_mod(weight)) for prompt, weight in zip(prompts, weights, strict=True)]
    few = min(ONE_BY_ONE, streams) if settings.quick else streams
    firsts = First()
    routes = [
        Route(OURS, lambda _: served(bench, requests, new, firsts), holds=(bench.model,)),
        Route("plain", lambda _: plain.generate(bench.model, bench.prompts(n * streams), new), holds=(bench.model,)),
        Route("generate", lambda _: write(bench, bench.adapters, requests, new), holds=(bench.model,)),
        Route(
            "one-at-a-time",
            lambda _: [y for each in requests[:few] for y in write(bench, bench.adapters, [each], new)],
            share=few / streams,
            holds=(bench.model,),
        ),
    ]
    need = floors.decoding(bench.shape, [(settings.prompt_tokens, new)] * (n * streams))

    def agreement(name: str, ours: Sequence[Tokens], theirs: Any) -> Agreement:
        detail = {"first_token_seconds": median(firsts.seconds)}
        if name == "plain":  # the backbone alone writes something else; what counts is that it is as much
            return Agreement(None, {"tokens": sum(map(len, theirs)), **detail})
        with bench.bank.mounted(bench.adapters):
            judged = same_texts(bench.bank, requests, ours, theirs, bench.exact)
        return Agreement(judged.equal, {**judged.detail, **detail})

    return bench.compare(work, routes, streams * new, agreement, need, rows=n * streams, streams=streams)


def served(bench: Bench, requests: Sequence[Request], new: int, firsts: First) -> list[Tokens]:
    scheduler = Scheduler(bench.bank, (), Room(rows=4096, tokens=1 << 30, waiting=4096))
    scheduler.start(bench.adapters)
    try:
        return asyncio.run(_asked(bench, scheduler, requests, new, firsts))
    finally:
        scheduler.close()


async def _asked(
    bench: Bench, scheduler: Scheduler, requests: Sequence[Request], new: int, firsts: First
) -> list[Tokens]:
    async def one(request: Request) -> Tokens:
        aligned = Aligned(tuple(bench.adapters), request.mixture)
        ask = Ask(aligned, request.prompt, request.seed, Decoding(), new, None, time.monotonic() + 3600, firsts)
        scheduler.submit([ask])
        tokens: list[int] = []
        while isinstance(event := await ask.events.get(), Written):
            tokens += event.tokens
        return tuple(tokens)

    return list(await asyncio.gather(*map(one, requests)))
