"""Stage judged: a method's answers under the true rewards. Writes `responses.jsonl`.

A judge that compares holds each answer against the base model's to the same prompt, drawn with the same noise.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sipo.data import Row
from sipo.disk.tables import write_records
from sipo.records import Response, known
from sipo.rewards import Item, score_responses
from sipo.task import Task


def judge(
    task: Task, answers: list[Response], folder: Path, *, against: Sequence[Response] | None = None
) -> list[Response]:
    """The answers with their rewards, of the objectives that have one; `against` are the base model's, where a judge
    compares.
    """
    responses = with_rewards(task, answers, task.splits.test, against)
    write_records(folder / "responses.jsonl", responses)
    return responses


def with_rewards(
    task: Task, answers: Sequence[Response], rows: Sequence[Row], against: Sequence[Response] | None = None
) -> list[Response]:
    """The answers to the prompts of these rows with their rewards, None where a judge refused one."""
    config, prompts = task.config, {row.key: row.prompt for row in rows}
    others = [None] * len(answers) if against is None else [each.response for each in opponents(answers, against)]
    items = [Item(prompts[each.prompt], each.response, y) for each, y in zip(answers, others, strict=True)]
    columns = score_responses(config.objectives, items, config.execution, task.progress, moment=task.moment)
    return [
        replace(each, rewards={name: known(column[i]) for name, column in columns.items()})
        for i, each in enumerate(answers)
    ]


def opponents(answers: Sequence[Response], base: Sequence[Response]) -> list[Response]:
    """For each answer the base model's with the same noise: of the draw of that weight's place, or its only one.

    `answers` are those of one method, weight by weight in the order of the run's.
    """
    of = {(each.prompt, each.draw, each.index): each for each in base}
    places = {shares: place for place, shares in enumerate(dict.fromkeys(_shares(each) for each in answers))}
    draws = max(each.draw for each in base)
    return [
        of[each.prompt, min(draws, each.draw if each.weights is None else places[_shares(each)]), each.index]
        for each in answers
    ]


def _shares(answer: Response) -> tuple[float, ...] | None:
    return None if answer.weights is None else tuple(answer.weights.values())
