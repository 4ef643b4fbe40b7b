"""MOD for one person, and for the whole batch, from packed weights: against the same on torch's own layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod
from sipo.models.packed import PackedLinear


def alone(bench: Bench) -> list[Record]:
    return _compared(bench, "packed-alone", 1)


def together(bench: Bench) -> list[Record]:
    return _compared(bench, "packed", bench.settings.batch)


def _compared(bench: Bench, work: str, prompts: int) -> list[Record]:
    settings = bench.settings
    new, rows = settings.new_tokens, settings.n * prompts
    weights = bench.weights(prompts)
    requests = [Request(x, at_mod(w)) for x, w in zip(bench.prompts(prompts), weights, strict=True)]

    def unpacked() -> list[Tokens]:
        with _as_torch_has_it():
            return write(bench, bench.adapters, requests, new)

    def agreement(_: str, ours: list[Tokens], theirs: list[Tokens]) -> Agreement:
        with bench.bank.mounted(bench.adapters):
            return same_texts(bench.bank, requests, ours, theirs, bench.exact)

    routes = [
        Route(OURS, lambda _: write(bench, bench.adapters, requests, new), holds=(bench.model,)),
        Route("unpacked", lambda _: unpacked(), holds=(bench.model,)),
    ]
    need = floors.decoding(bench.shape, [(settings.prompt_tokens, new)] * rows)
    return bench.compare(work, routes, prompts * new, agreement, need, prompts=prompts, rows=rows)


@contextmanager
def _as_torch_has_it() -> Iterator[None]:
    packed = PackedLinear.forward
    PackedLinear.forward = nn.Linear.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        PackedLinear.forward = packed  # type: ignore[method-assign]
