"""Adapters of the upper half of the layers: what sharing the layers below saves, in decoding and in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.model import random_adapter
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.dpo import same_curves
from benchmarks.works.ours import write
from sipo.bank import Adapter, Bank, new_adapter
from sipo.bank.adapter import target_layers
from sipo.bank.routes import Routes
from sipo.decoding import Request, at_mod
from sipo.settings import Lora, Training
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, train

PAIRS, QUICK_PAIRS = 64, 16
LR = 5e-4
EPOCHS = 2


def decoding(bench: Bench) -> list[Record]:
    settings, (proven, apart) = bench.settings, _proven(bench)
    new, rows = settings.new_tokens, settings.n * settings.batch
    upper = [random_adapter(bench.model, settings.rank, settings.seed + i, "upper") for i in range(settings.n)]
    weights = bench.weights(settings.batch)
    requests = [Request(x, at_mod(w)) for x, w in zip(bench.prompts(settings.batch), weights, strict=True)]

    def own_rows() -> list[Tokens]:
        with _by(bench, apart):
            return write(bench, upper, requests, new)

    def agreement(name: str, ours: list[Tokens], theirs: list[Tokens]) -> Agreement:
        if name == "all-layers":  # other policies
            return Agreement(None, {})
        with bench.bank.mounted(upper):
            return same_texts(bench.bank, requests, ours, theirs, bench.exact)

    with _by(bench, proven):
        routes = [
            Route(OURS, lambda _: write(bench, upper, requests, new), holds=(bench.model,)),
            Route("own-rows", lambda _: own_rows(), holds=(bench.model,)),
            Route("all-layers", lambda _: write(bench, bench.adapters, requests, new), holds=(bench.model,)),
        ]
        need = floors.decoding(bench.shape, [(settings.prompt_tokens, new)] * rows)
        return bench.compare("upper-decode", routes, settings.batch * new, agreement, need, rows=rows)


def dpo(bench: Bench) -> list[Record]:
    """A policy for each objective, two epochs each, from references that are known: states are kept over all of it."""
    settings, (proven, apart) = bench.settings, _proven(bench)
    count = QUICK_PAIRS if settings.quick else PAIRS
    training = Training(epochs=EPOCHS, batch_size=min(8, count // 2), lr=LR)
    groups = bench.groups(count, 2, settings.new_tokens)
    examples = Examples([Example(group, (0.0, 0.0), ((0, 1, 1.0),)) for group in groups])
    starts = {
        layers: new_adapter(bench.model, Lora(r=settings.rank, alpha=2.0 * settings.rank, layers=layers), 0)
        for layers in ("upper", "all")
    }

    def trained(start: Adapter, _: object) -> float:
        bench.bank.kept.clear()
        for objective in range(settings.n):
            recipe = Recipe(training, LR, settings.seed + objective)
            made = train(bench.bank, start, examples, recipe, Loss(training.beta))
        return made.history[-1]["loss"]

    def own_rows(_: object) -> float:
        with _by(bench, apart):
            return trained(starts["upper"], None)

    def agreement(name: str, ours: float, theirs: float) -> Agreement:
        if name == "all-layers":  # another policy
            return Agreement(None, {})
        return same_curves([[ours]], [[theirs]], bench.exact)

    with _by(bench, proven):
        routes = [
            Route(OURS, partial(trained, starts["upper"]), holds=(bench.model,)),
            Route("own-rows", own_rows, holds=(bench.model,)),
            Route("all-layers", partial(trained, starts["all"]), holds=(bench.model,)),
        ]
        tokens = settings.n * EPOCHS * sum(group.tokens for group in groups)
        return bench.compare("upper-dpo", routes, tokens, agreement, pairs=count, epochs=EPOCHS)


def _proven(bench: Bench) -> tuple[Routes, Routes]:
    """With these adapters, and the same where nothing is shared; the bench's own were found with others."""
    routes = Bank(bench.backbone).proven(target_layers(bench.model, Lora(layers="upper"))).routes
    return routes, replace(routes, shares=False, keeps=False)


@contextmanager
def _by(bench: Bench, routes: Routes) -> Iterator[None]:
    before, bench.bank.routes = bench.bank.routes, routes
    try:
        yield
    finally:
        bench.bank.routes = before
