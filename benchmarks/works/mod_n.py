"""What the number of objectives costs: five adapters mounted against one, at equal rows, and for the same prompts."""

from typing import Any

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.bench import Bench
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Mixture, Request, at_mod
from sipo.weights import corners

MANY = 5


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    adapters = bench.new_adapters(MANY)
    count = max(1, settings.batch * settings.n // MANY)
    prompts, new = bench.prompts(count), settings.new_tokens
    weights = bench.weights(count, MANY)
    requests = [Request(prompt, at_mod(weight)) for prompt, weight in zip(prompts, weights, strict=True)]
    alone = [Request(prompt, Mixture(((1.0,),), (1.0,))) for prompt in bench.prompts(MANY * count)]

    def agreement(_: str, __: Any, theirs: Any) -> Agreement:
        """At the first corner five adapters are the first alone."""
        corner = [Request(prompt, at_mod(corners(MANY)[0])) for prompt in prompts]
        ours = write(bench, adapters, corner, new)
        with bench.bank.mounted(adapters):
            return same_texts(bench.bank, corner, ours, theirs[:count], bench.exact)

    routes = [
        Route(OURS, lambda _: write(bench, adapters, requests, new), holds=(bench.model,)),
        Route("n-1", lambda _: write(bench, adapters[:1], alone, new), holds=(bench.model,)),
        Route(
            "n-1-five-times",
            lambda _: write(bench, adapters[:1], alone[:count], new),
            share=1 / MANY,
            holds=(bench.model,),
        ),
    ]
    need = floors.decoding(bench.shape, [(settings.prompt_tokens, new)] * (MANY * count))
    return bench.compare("mod-n", routes, MANY * count * new, agreement, need, adapters=MANY, rows=MANY * count)
