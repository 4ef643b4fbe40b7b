"""Stage calibrate: the training rows scored by policies that have not seen them, for the filter's judges.

The rows are split into folds by prompt, and policies trained on the other folds score a fold's responses. Not in
the paper. Writes `adapters/<fold>-<objective>`, `logprobs.parquet` and `training.jsonl`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.data import Row, folds_of
from sipo.disk.journal import FOLDER, Journal
from sipo.disk.tables import write_records
from sipo.logprobs.table import REFERENCE, LogprobTable, policy
from sipo.stages.align import labelled
from sipo.task import Task
from sipo.training.loop import Examples, Trained, Trainee
from sipo.training.policies import fresh, rates_of, say_if_it_stayed, train_units


def calibrate(
    task: Task, known: LogprobTable, folder: Path, *, folds: int, aligned: Mapping[str, Any] | None = None
) -> LogprobTable:
    """Every training row's responses under the policies that did not see it, and under the reference, which `known`
    holds; `aligned` has the rates of alignment, where they were chosen.
    """
    rates = rates_of(task, aligned)
    fold_of = folds_of(task.splits.train, folds, task.config.seed)
    units = [(fold, i) for fold in range(folds) for i in range(len(task.objectives))]

    def trainee(unit: tuple[int, int]) -> Trainee:
        fold, objective = unit[0], task.objectives[unit[1]]
        others = [row for row in task.splits.train if fold_of[row.key] != fold]
        return fresh(
            task,
            Examples(*(labelled(task, rows, objective, known) for rows in (others, task.splits.validation))),
            lr=rates[objective],
            checkpoint=folder / FOLDER / f"{fold}-{objective}.pt",
            order=("calibrate", fold),
            fold=fold,
            objective=objective,
        )

    def score(unit: tuple[int, int], result: Trained | None) -> dict[str, Any]:
        assert result is not None
        fold, objective = unit[0], task.objectives[unit[1]]
        say_if_it_stayed(task, result, fold=fold, objective=objective)
        result.policy.save(place(unit), task.backbone)
        inside = [row for row in task.splits.train if fold_of[row.key] == fold]
        history = [{"objective": objective, "fold": fold, **record} for record in result.history]
        return {"logprobs": _held_out_logprobs(task, inside, result, unit, known, folder), "history": history}

    def place(unit: tuple[int, int]) -> Path:
        return folder / "adapters" / f"{unit[0]}-{task.objectives[unit[1]]}"

    journal = Journal(folder, "folds", task.progress)
    parts = train_units(task, journal, units, trainee, score, settings=task.config.align, writes=place)
    table = LogprobTable()
    for (fold, i), part in zip(units, parts, strict=True):
        inside = [row for row in task.splits.train if fold_of[row.key] == fold]
        for row, values in zip(inside, part["logprobs"], strict=True):
            group = task.group(row)
            table.put(policy(task.objectives[i]), group, values)
            table.put(REFERENCE, group, known.of(group, [REFERENCE])[:, 0])
    table.write(folder / "logprobs.parquet")
    write_records(folder / "training.jsonl", [record for part in parts for record in part["history"]])
    return table


def _held_out_logprobs(
    task: Task, rows: Sequence[Row], result: Trained, unit: tuple[int, int], known: LogprobTable, folder: Path
) -> list[list[float]]:
    """The rows' responses under the policy, which did not see them."""
    objective = task.objectives[unit[1]]
    table = LogprobTable()
    for row in rows:
        table.put(REFERENCE, task.group(row), known.of(task.group(row), [REFERENCE])[:, 0])
    with task.engine() as engine:
        table.fill(
            engine,
            task.span([result.policy]),
            [task.group(row) for row in rows],
            {policy(objective): (1.0,)},
            Journal(folder, f"score-{unit[0]}-{objective}", task.progress),
        )
    return [table.of(task.group(row), [policy(objective)])[:, 0].tolist() for row in rows]
