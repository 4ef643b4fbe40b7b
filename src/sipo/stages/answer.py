"""Stage answers: a method at every weight on held-out prompts.

All methods decode alike, and with the same noise for the same prompt at the same weight, so that differences are the
methods'. One that no weight steers is drawn from once for each weight too: chance alone spreads several points, and
would lift their front above a single one. Greedy decoding leaves nothing to draw, and such a method one point. Of a
method that draws an answer several times, the policies say which draw it gives.
Writes `responses.jsonl`, without rewards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sipo.bank import Policy
from sipo.data import Row
from sipo.decoding import Generated, Request, seed_of
from sipo.disk.journal import Journal
from sipo.disk.tables import write_records
from sipo.engines import Engine, answer
from sipo.logprobs.packing import Group
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points
from sipo.methods.interface import Aligned, Method, prompt_of
from sipo.methods.registry import built, find
from sipo.records import Response
from sipo.settings import Decoding
from sipo.stages.sample import named, one_row_a_prompt
from sipo.task import Task
from sipo.weights import Weight


@dataclass(frozen=True, slots=True)
class _Asked:
    """An answer that is to be given, and what it is drawn by."""

    method: Method
    weight: Weight
    aligned: Aligned
    row: Row
    index: int

    def draws(self, task: Task) -> list[Request]:
        seed = seed_of(task.config.seed, "evaluate", self.row.key, self.weight, self.index)
        request = Request(prompt_of(task, self.method.name, self.aligned, self.row), self.aligned.mixture, seed)
        return [request] if self.aligned.best_of is None else self.aligned.best_of.draws(request)

    @property
    def drawn(self) -> int:
        return 1 if self.aligned.best_of is None else self.aligned.best_of.n

    def decoding(self, task: Task) -> Decoding:
        best_of = self.aligned.best_of
        return best_of.drawing(task.config.decoding) if best_of else task.config.decoding


def answer_by(task: Task, folder: Path, *, method: str, **inputs: Any) -> list[Response]:
    """Those of a method by its name in the configuration; `inputs` are what its declaration needs."""
    return answer_prompts(task, built(find(method), task.config, inputs), folder)


def answer_prompts(
    task: Task, methods: Sequence[Method], folder: Path, weights: Sequence[Weight] | None = None
) -> list[Response]:
    """All answers, method by method, at the run's weights unless others are given. Models over the same adapters share
    batches, and what they have in common.
    """
    config, weights = task.config, task.weights if weights is None else weights
    models = [
        (method, weight, method.at(weight))
        for method in methods
        for weight in (weights if method.steerable or config.decoding.temperature > 0 else weights[:1])
    ]
    rows = test_rows(task)
    plan = [
        _Asked(method, weight, aligned, row, index)
        for method, weight, aligned in models
        for row in rows
        for index in range(config.evaluate.per_prompt)
    ]
    drawn: dict[int, list[Generated]] = {}
    with task.engine() as engine:
        together: dict[tuple[tuple[Policy, ...], Decoding], list[int]] = {}
        for at, each in enumerate(plan):
            together.setdefault((each.aligned.adapters, each.decoding(task)), []).append(at)
        for number, ((adapters, decoding), mine) in enumerate(together.items()):
            names = dict.fromkeys(plan[at].method.name for at in mine)
            generated = answer(
                engine,
                task.span(adapters),
                (request for at in mine for request in plan[at].draws(task)),
                decoding,
                config.data.max_response_tokens,
                task.codec.stops,
                Journal(folder, f"{number} {' '.join(names).replace(':', '-')}", task.progress),
            )
            following = iter(generated)
            drawn.update({at: list(islice(following, plan[at].drawn)) for at in mine})
        given = _given(task, engine, [(each, drawn[at]) for at, each in enumerate(plan)], folder)
    responses = [
        Response(
            each.method.name, named(task, each.weight) if each.method.steerable else None, each.row.key, each.row.text,
            each.index, task.codec.decode(answer.tokens), len(answer.tokens), answer.finished, {},
            0 if each.method.steerable else weights.index(each.weight),
        )
        for each, answer in zip(plan, given, strict=True)
    ]  # fmt: skip
    write_records(folder / "responses.jsonl", responses)
    return responses


def _given(
    task: Task, engine: Engine, drawn: Sequence[tuple[_Asked, list[Generated]]], folder: Path
) -> list[Generated]:
    """Of each answer's draws the one that the policies find best at its weight."""
    groups = {at: _group(task, *each) for at, each in enumerate(drawn) if len(each[1]) > 1}
    tables: dict[tuple[Policy, ...], LogprobTable] = {}
    policies = policy_points(task.objectives)
    for adapters in dict.fromkeys(drawn[at][0].aligned.adapters for at in groups):
        known = tables[adapters] = LogprobTable()
        known.fill(
            engine,
            task.span(adapters),
            [group for at, group in groups.items() if drawn[at][0].aligned.adapters == adapters],
            {REFERENCE: (0.0,) * len(adapters), **policies},
            Journal(folder, f"draws {len(tables)}", task.progress),
        )
    given = []
    for at, (each, draws) in enumerate(drawn):
        best = 0
        if at in groups and each.aligned.best_of:
            best = each.aligned.best_of.pick(tables[each.aligned.adapters].logratios(groups[at], list(policies)))
        given.append(draws[best])
    return given


def _group(task: Task, each: _Asked, draws: Sequence[Generated]) -> Group:
    return Group(prompt_of(task, each.method.name, each.aligned, each.row), tuple(draw.tokens for draw in draws))


def test_rows(task: Task) -> list[Row]:
    """One row for each held-out prompt, a seeded choice of them where `evaluate.prompts` limits it."""
    rows = one_row_a_prompt(task.splits.test)
    rows.sort(key=lambda row: seed_of(task.config.seed, "test", row.key))
    return rows[: task.config.evaluate.prompts]
