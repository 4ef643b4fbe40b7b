"""Stage sample: for every prompt of `sample.rows`, which are those in conflict, responses by MOD (SIPO, Eq. 3).

They are drawn at every weight of `sample.weights` but the corners: the paper samples between the objectives. Writes
`samples.jsonl`.
"""

from collections.abc import Iterable
from pathlib import Path

from sipo.bank import Policy
from sipo.data import Row
from sipo.decoding import Generated, Request, at_mod, seed_of
from sipo.disk.journal import Journal
from sipo.disk.tables import write_records
from sipo.engines import answer
from sipo.records import Sample
from sipo.task import Task
from sipo.weights import Weight, between, grid


def sample(task: Task, policies: list[Policy], folder: Path, *, round: int = 1) -> list[Sample]:
    """Samples by prompt, then weight, then index; every round has noise of its own."""
    config = task.config
    weights = between(grid(config.sample.weights, task.objectives, "sample.weights"))
    plan = [
        (row, weight, index)
        for row in one_row_a_prompt(worked_rows(task))
        for weight in weights
        for index in range(config.sample.per_weight)
    ]
    requests = (
        Request(
            task.prompt_tokens(row),
            at_mod(weight),
            seed_of(config.seed, "sample", row.key, weight, index, *of_round(round)),
        )
        for row, weight, index in plan
    )
    answers = written(task, policies, requests, Journal(folder, "sample", task.progress))
    samples = [
        Sample(row.key, named(task, weight), index, task.codec.decode(a.tokens), a.tokens, a.finished)
        for (row, weight, index), a in zip(plan, answers, strict=True)
    ]
    write_records(folder / "samples.jsonl", samples)
    lengths = [len(each.tokens) for each in samples]
    task.progress.table(
        "samples",
        ["prompts", "samples", "mean tokens", "cut by the limit"],
        [
            [
                len({s.prompt for s in samples}),
                len(samples),
                sum(lengths) / len(lengths),
                sum(not s.finished for s in samples),
            ]
        ],
    )
    return samples


def written(task: Task, policies: list[Policy], requests: Iterable[Request], journal: Journal) -> list[Generated]:
    """The answers to the requests by mixtures of the policies, in order."""
    with task.engine() as engine:
        return answer(
            engine,
            task.span(policies),
            requests,
            task.config.decoding,
            task.config.data.max_response_tokens,
            task.codec.stops,
            journal,
        )


def of_round(number: int) -> tuple[int, ...]:
    """What a round adds to its seeds."""
    return () if number == 1 else (number,)


def worked_rows(task: Task) -> list[Row]:
    """The training rows that SIPO works on; with a limit on prompts, those of a seeded choice of them."""
    settings = task.config.sample
    wanted = {"conflicting": (True,), "non-conflicting": (False,), "all": (True, False)}[settings.rows]
    rows = [row for row in task.splits.train if row.conflicting(task.objectives) in wanted]
    limit = settings.prompts
    if limit is None:
        return rows
    keys = sorted({row.key for row in rows}, key=lambda key: seed_of(task.config.seed, "prompts", key))
    taken = set(keys[:limit])
    return [row for row in rows if row.key in taken]


def one_row_a_prompt(rows: list[Row]) -> list[Row]:
    return list({row.key: row for row in rows}.values())


def named(task: Task, weight: Weight) -> dict[str, float]:
    return dict(zip(task.objectives, weight, strict=True))
