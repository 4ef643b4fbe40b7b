"""MOD for a batch of prompts, each at its own weight; every response runs to the limit."""

from collections.abc import Sequence
from typing import Any

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.alternatives import merged, peft_mixed, plain, sequential
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod
from sipo.weights import corners

ONE_BY_ONE = 4
"""Prompts that the sequential route answers under --quick: at one prompt at a time its cost is proportional."""


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    n, new = settings.n, settings.new_tokens
    prompts, weights, points = bench.prompts(settings.batch), bench.weights(settings.batch), corners(n)
    requests = [Request(prompt, at_mod(weight)) for prompt, weight in zip(prompts, weights, strict=True)]
    few = min(ONE_BY_ONE, settings.batch) if settings.quick else settings.batch
    switched, copies = bench.switched, bench.merged
    everywhere = bench.prompts(n * settings.batch)
    routes = [
        Route(OURS, lambda _: write(bench, bench.adapters, requests, new), holds=(bench.model,)),
        Route("plain", lambda _: plain.generate(bench.model, everywhere, new), holds=(bench.model,)),
        Route(
            "sequential",
            lambda _: sequential.decode(switched, prompts[:few], points, weights[:few], new),
            share=few / settings.batch,
            holds=(switched.model,),  # type: ignore[arg-type]
        ),
        Route(
            "switched-batch",
            lambda _: sequential.decode(switched, prompts, points, weights, new, rows=settings.batch, reference=False),
            holds=(switched.model,),  # type: ignore[arg-type]
        ),
        Route(
            "peft-mixed",
            lambda _: peft_mixed.decode(switched, prompts, points, weights, new),
            holds=(switched.model,),  # type: ignore[arg-type]
        ),
        Route("merged", lambda _: merged.decode(copies, prompts, weights, new), holds=tuple(copies)),
    ]
    need = floors.decoding(bench.shape, [(settings.prompt_tokens, new)] * (n * settings.batch))

    def agreement(name: str, ours: Sequence[Tokens], theirs: Any) -> Agreement:
        if name == "plain":  # the backbone alone writes something else; what counts is that it is as much
            return Agreement(None, {"tokens": sum(map(len, theirs))})
        with bench.bank.mounted(bench.adapters):
            return same_texts(bench.bank, requests, ours, theirs, bench.exact)

    return bench.compare("mod-decode", routes, settings.batch * new, agreement, need, rows=n * settings.batch)
