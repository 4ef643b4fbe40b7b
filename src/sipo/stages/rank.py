"""Stages held-out and ranked: whether held-out labels agree with how each method's model ranks the two responses.

A model at weight w ranks by its implicit reward, beta (log pi_w(y | x) - log pi_ref(y | x)); of a mixture, pi_w is
normalised token by token. The share of a prompt's labels that agree, averaged over prompts, is its preference accuracy:
how it ranks given responses, not how good what it writes is. A model that is the reference ranks neither first, and
counts as half right throughout. Write `logprobs.parquet`, the reference's, and `rankings.jsonl`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.bank import Policy
from sipo.data import Row
from sipo.disk.journal import Journal, Results, in_any_order
from sipo.disk.tables import write_records
from sipo.engines import Span
from sipo.logprobs.score import ScoreRequest
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.methods.interface import Aligned, Method
from sipo.methods.registry import built, find
from sipo.records import Ranking
from sipo.stages.answer import test_rows
from sipo.stages.sample import named
from sipo.task import Task
from sipo.weights import Weight

Place = tuple[Method, Weight, Aligned]
"""A point of a front, and the model there."""


def score_held_out(task: Task, folder: Path) -> LogprobTable:
    """The labelled held-out rows under the reference, which serve every method."""
    table = LogprobTable()
    groups = [task.group(row) for row in labelled_rows(task)]
    with task.engine() as engine:
        table.fill(engine, task.span(), groups, {REFERENCE: ()}, Journal(folder, "reference", task.progress))
    table.write(folder / "logprobs.parquet")
    return table


def rank(task: Task, known: LogprobTable, folder: Path, *, method: str, **inputs: Any) -> list[Ranking]:
    """The rankings of a method by its name in the configuration; `inputs` are what its declaration needs, and `known`
    holds the reference's log-probabilities.
    """
    methods = built(find(method), task.config, inputs)
    places = [
        (each, weight, each.at(weight))
        for each in methods
        for weight in (task.weights if each.steerable else task.weights[:1])
    ]
    rows = labelled_rows(task)
    margins = _margins(task, places, rows, known, folder)
    rankings = [
        Ranking(
            each.name, named(task, weight) if each.steerable else None, row.key, row.text, row.id, margin,
            {name: _agreed(margin, row.sign(name)) for name in task.objectives},
        )
        for (each, weight, _), mine in zip(places, margins, strict=True)
        for row, margin in zip(rows, mine, strict=True)
    ]  # fmt: skip
    write_records(folder / "rankings.jsonl", rankings)
    return rankings


def labelled_rows(task: Task) -> list[Row]:
    """All rows of the held-out prompts that are answered, but those without a label, and those whose two responses are
    one as the run uses them.
    """
    prompts = {row.key for row in test_rows(task)}
    return [
        row
        for row in task.splits.test
        if row.key in prompts
        and any(row.sign(name) for name in task.objectives)
        and len(set(task.group(row).responses)) == 2
    ]


def _margins(
    task: Task, places: Sequence[Place], rows: Sequence[Row], known: LogprobTable, folder: Path
) -> list[list[float]]:
    """By place and row, the implicit reward over beta of response_1 less that of response_0; 0, exactly, of a model
    that is the reference.
    """
    groups = [task.group(row) for row in rows]
    reference = [y_1 - y_0 for y_0, y_1 in map(known.reference, groups)]
    margins = [[0.0] * len(rows) for _ in places]
    spans: dict[tuple[Policy, ...], Span] = {each.adapters: task.span(each.adapters) for *_, each in places}
    with task.engine() as engine:
        for number, (adapters, span) in enumerate(spans.items()):
            mine = [
                at
                for at, (*_, each) in enumerate(places)
                if each.adapters == adapters and any(map(span.moves, each.mixture.points))
            ]
            requests = [
                ScoreRequest(group.prompt, response, places[at][2].mixture)
                for at in mine
                for group in groups
                for response in group.responses
            ]
            journal = Journal(folder, f"rows {number}", task.progress)

            def work(done: Collection[int], span: Span = span, requests: Sequence[ScoreRequest] = requests) -> Results:
                yield from engine.score(span, requests, done)

            scores = iter(in_any_order(journal, len(requests), work))
            for at in mine:
                pairs = [(next(scores), next(scores)) for _ in groups]
                margins[at] = [float(y_1 - y_0 - of) for (y_0, y_1), of in zip(pairs, reference, strict=True)]
    return margins


def _agreed(margin: float, sign: float) -> float | None:
    return (1 + float(np.sign(margin)) * sign) / 2 if sign else None
