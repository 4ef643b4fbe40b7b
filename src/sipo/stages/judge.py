"""Stage judged: a method's answers under the true rewards. Writes `responses.jsonl`."""

from pathlib import Path

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
    prompts = {row.key: row.prompt for row in task.splits.test}
    items = [Item(prompts[each.prompt], each.response) for each in answers]
    columns = score_responses(config.objectives, items, config.execution, task.progress, moment=task.moment)
    responses = [
        Response(**{**vars(each), "rewards": {name: known(column[i]) for name, column in columns.items()}})
        for i, each in enumerate(answers)
    ]
    write_records(folder / "responses.jsonl", responses)
    return responses
