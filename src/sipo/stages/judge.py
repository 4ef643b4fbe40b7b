"""Stage judged: a method's answers under the true rewards. Writes `responses.jsonl`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sipo.data import Row
from sipo.disk.tables import write_records
from sipo.errors import SipoError
from sipo.records import Response, known
from sipo.rewards import Item, score_responses
from sipo.task import Task


def judge(task: Task, answers: list[Response], folder: Path) -> list[Response]:
    """The answers with their rewards. Raises SipoError where an objective has none."""
    config = task.config
    for objective in config.objectives:
        if objective.reward is None:
            raise SipoError(f"objectives: `{objective.name}` has no reward, which evaluate needs; name module:function")
    responses = with_rewards(task, answers, task.splits.test)
    write_records(folder / "responses.jsonl", responses)
    return responses


def with_rewards(task: Task, answers: Sequence[Response], rows: Sequence[Row]) -> list[Response]:
    """The answers to the prompts of these rows with their rewards, None where a judge refused one."""
    config, prompts = task.config, {row.key: row.prompt for row in rows}
    items = [Item(prompts[each.prompt], each.response) for each in answers]
    columns = score_responses(config.objectives, items, config.execution, task.progress, moment=task.moment)
    return [
        replace(each, rewards={name: known(column[i]) for name, column in columns.items()})
        for i, each in enumerate(answers)
    ]
