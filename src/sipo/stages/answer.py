"""Stage answers: a method at every weight on held-out prompts.

All methods decode alike, and with the same noise for the same prompt at the same weight, so that differences are the
methods'. One that no weight steers is drawn from once for each weight too: chance alone spreads several points, and
would lift their front above a single one. Greedy decoding leaves nothing to draw, and such a method one point.
Writes `responses.jsonl`, without rewards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sipo.data import Row
from sipo.decoding import Generated, Request, answer, seed_of
from sipo.disk.tables import write_records
from sipo.engines import opened
from sipo.methods.interface import Method
from sipo.methods.registry import find
from sipo.records import Response
from sipo.stages.sample import named, one_row_a_prompt
from sipo.task import Task


def answer_by(task: Task, folder: Path, *, method: str, **inputs: Any) -> list[Response]:
    """Those of a method by its name in the configuration; `inputs` are what its declaration needs."""
    return answer_prompts(task, find(method).build(task.config, **inputs), folder)


def answer_prompts(task: Task, methods: Sequence[Method], folder: Path) -> list[Response]:
    """All answers, method by method. Models over the same adapters share batches, and what they have in common."""
    config = task.config
    models = [
        (method, weight, method.at(weight))
        for method in methods
        for weight in (task.weights if method.steerable or config.decoding.temperature > 0 else task.weights[:1])
    ]
    plan = [
        (method, weight, aligned, row, index)
        for method, weight, aligned in models
        for row in test_rows(task)
        for index in range(config.evaluate.per_prompt)
    ]
    requests = [
        Request(task.prompt_tokens(row), aligned.mixture, seed_of(config.seed, "evaluate", row.key, weight, index))
        for _, weight, aligned, row, index in plan
    ]
    answers: dict[int, Generated] = {}
    with opened(config.execution) as engine:
        for number, adapters in enumerate(dict.fromkeys(aligned.adapters for _, _, aligned in models)):
            mine = [at for at, (_, _, aligned, *_) in enumerate(plan) if aligned.adapters == adapters]
            names = dict.fromkeys(method.name for method, _, aligned in models if aligned.adapters == adapters)
            with task.bank.mounted(adapters):
                generated = answer(
                    task.bank,
                    [requests[at] for at in mine],
                    config.decoding,
                    config.data.max_response_tokens,
                    task.codec.stops,
                    rows=config.execution.decode_rows,
                    folder=folder,
                    label=f"{number} {' '.join(names).replace(':', '-')}",
                    progress=task.progress,
                    engine=engine,
                )
            answers.update(zip(mine, generated, strict=True))
    responses = [
        Response(
            method.name, named(task, weight) if method.steerable else None, row.key, row.text, index,
            task.codec.decode(answers[at].tokens), len(answers[at].tokens), answers[at].finished, {},
            0 if method.steerable else task.weights.index(weight),
        )
        for at, (method, weight, _, row, index) in enumerate(plan)
    ]  # fmt: skip
    write_records(folder / "responses.jsonl", responses)
    return responses


def test_rows(task: Task) -> list[Row]:
    """One row for each held-out prompt, a seeded choice of them where `evaluate.prompts` limits it."""
    rows = one_row_a_prompt(task.splits.test)
    rows.sort(key=lambda row: seed_of(task.config.seed, "test", row.key))
    return rows[: task.config.evaluate.prompts]
