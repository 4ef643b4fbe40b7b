"""Stage align: one policy for each objective by DPO (SIPO, Eq. 2).

The reference log-probabilities of all rows are computed once and serve every objective: the responses are the
same, only the labels differ. Writes `adapters/<objective>` (PEFT, or a whole model), `training.jsonl` and
`logprobs.parquet`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.bank import Policy, load_policy
from sipo.data import Row
from sipo.disk.journal import FOLDER, Journal
from sipo.disk.tables import write_records
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.task import Task
from sipo.training.loop import Example, Examples, Trained, Trainee
from sipo.training.policies import fresh, say_if_it_stayed, train_units, training_table


def align(
    task: Task, folder: Path, *, known: LogprobTable | None = None, rates: Mapping[str, float] | None = None
) -> list[Policy]:
    """The N policies, in the order of the objectives. `known` holds the references where they are there; `rates`, by
    objective, stand in for the configured ones.
    """
    table = score_references(task, folder) if known is None else known

    def trainee(objective: str) -> Trainee:
        return fresh(
            task,
            Examples(
                labelled(task, task.splits.train, objective, table),
                labelled(task, task.splits.validation, objective, table),
            ),
            lr=rates[objective] if rates else task.config.align.lr_of(objective),
            checkpoint=folder / FOLDER / f"{objective}.pt",
            objective=objective,
        )

    def keep(objective: str, result: Trained | None) -> list[dict[str, Any]]:
        assert result is not None
        say_if_it_stayed(task, result, objective=objective)
        result.policy.save(folder / "adapters" / objective, task.backbone)
        return [{"objective": objective, **record} for record in result.history]

    histories = train_units(
        task,
        Journal(folder, "policies", task.progress),
        task.objectives,
        trainee,
        keep,
        settings=task.config.align,
        writes=lambda name: folder / "adapters" / name,
    )
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    task.progress.table("DPO policies", *training_table(histories))
    return read_policies(folder, task.objectives)


def score_references(task: Task, folder: Path) -> LogprobTable:
    """The reference's log-probabilities of all rows, which serve every objective and strength."""
    table = LogprobTable()
    rows = [*task.splits.train, *task.splits.validation]
    with task.engine() as engine:
        table.fill(
            engine,
            task.span(),
            [task.group(row) for row in rows],
            {REFERENCE: ()},
            Journal(folder, "reference", task.progress),
        )
    table.write(folder / "logprobs.parquet")
    return table


def read_policies(folder: Path, objectives: Sequence[str]) -> list[Policy]:
    """What align or realign wrote."""
    return [load_policy(folder / "adapters" / objective) for objective in objectives]


def labelled(task: Task, rows: Sequence[Row], objective: str, table: LogprobTable) -> list[Example]:
    """The rows that one objective has a preference for, with their reference log-probabilities."""
    examples = []
    for row in rows:
        sign = row.sign(objective)
        if sign:
            group = task.group(row)
            examples.append(Example(group, table.reference(group), ((1, 0, sign),)))
    return examples
