"""Log-probabilities of candidates under the reference, N policies and M soups, as the filter wants them."""

from typing import Any

from benchmarks import floors
from benchmarks.agreement import close
from benchmarks.alternatives import plain, sequential
from benchmarks.bench import Bench
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import SCORE_TOKENS, table
from sipo.bank.policy import Point
from sipo.logprobs.packing import Group, batches, pack, worth_sharing
from sipo.logprobs.table import REFERENCE, LogprobTable, soup_at
from sipo.weights import corners

SOUPS = 4
CANDIDATES = 6
"""Two originals, two samples and their rewrites."""
GROUPS, FEW = 8, 2
"""Prompts; and those that the sequential route scores under --quick."""


def judges(bench: Bench, soups: int = SOUPS) -> dict[str, Point]:
    n = bench.settings.n
    points: dict[str, Point] = {REFERENCE: (0.0,) * n}
    points.update({f"policy:{i}": corner for i, corner in enumerate(corners(n))})
    points.update({soup_at(weight): weight for weight in bench.weights(soups)})
    return points


def values(known: LogprobTable, groups: list[Group], names: list[str]) -> list[float]:
    return [value for name in names for group in groups for value in known.of(group, [name])[:, 0].tolist()]


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    groups = bench.groups(FEW if settings.quick else GROUPS, CANDIDATES, settings.new_tokens)
    models = judges(bench)
    scored = [name for name in models if name != REFERENCE]
    points = [models[name] for name in scored]
    everything = [row for group in groups for _ in models for row in worth_sharing(group, bench.bank.knee)]
    plan = list(batches([group.tokens for group in everything], SCORE_TOKENS))
    packed = [pack([everything[i] for i in indices], bench.model.device) for indices in plan]
    switched = bench.switched
    pairs = [(group.prompt, y) for group in groups for y in group.responses]
    lengths = [len(y) for _, y in pairs]

    def agreement(name: str, ours: LogprobTable, theirs: Any) -> Agreement:
        if name == "plain":
            known = dict(zip(pairs, values(ours, groups, [REFERENCE]), strict=True))
            order = [(everything[i].prompt, y) for indices in plan for i in indices for y in everything[i].responses]
            flat = [value for batch in theirs for value in batch]
            return close([known[pair] for pair in order], flat, [len(y) for _, y in order], bench.exact)
        flat = [value for each in theirs for value in each]
        return close(values(ours, groups, scored), flat, lengths * len(scored), bench.exact)

    routes = [
        Route(OURS, lambda _: table(bench, bench.adapters, groups, models), holds=(bench.model,)),
        Route("plain", lambda _: [plain.forward(bench.model, each) for each in packed], holds=(bench.model,)),
        Route(
            "sequential",
            lambda _: sequential.score(switched, pairs, points),
            lambda: [switched.name(point) for point in points],
            holds=(switched.model,),  # type: ignore[arg-type]
        ),
    ]
    need = floors.scoring(bench.shape, everything, len(plan))
    tokens = sum(lengths) * len(models)
    return bench.compare(
        "score", routes, tokens, agreement, need, soups=SOUPS, candidates=CANDIDATES, prompts=len(groups)
    )
