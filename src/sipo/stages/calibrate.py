"""Stage calibrate: the training rows scored by policies that have not seen them, for the filter's judges.

The rows are split into folds by prompt, and policies trained on the other folds score a fold's responses. Not in
the paper. Writes `adapters/<fold>-<objective>`, `logprobs.parquet` and `training.jsonl`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sipo.data import folds_of
from sipo.disk.journal import FOLDER, Journal, resumable
from sipo.disk.tables import write_records
from sipo.logprobs.table import REFERENCE, LogprobTable, policy
from sipo.stages.align import labelled
from sipo.task import Task
from sipo.training.loop import Examples
from sipo.training.policies import rates_of, train_fresh


def calibrate(
    task: Task, known: LogprobTable, folder: Path, *, folds: int, aligned: Mapping[str, Any] | None = None
) -> LogprobTable:
    """Every training row's responses under the policies that did not see it, and under the reference, which `known`
    holds; `aligned` has the rates of alignment, where they were chosen.
    """
    rates = rates_of(task, aligned)
    fold_of = folds_of(task.splits.train, folds, task.config.seed)
    units = [(fold, i) for fold in range(folds) for i in range(len(task.objectives))]

    def score(unit: tuple[int, int]) -> dict[str, Any]:
        return _held_out_logprobs(task, fold_of, *unit, rates, known, folder)

    def place(unit: tuple[int, int]) -> Path:
        return folder / "adapters" / f"{unit[0]}-{task.objectives[unit[1]]}"

    parts = resumable(Journal(folder, "folds", task.progress), units, score, writes=place)
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
    task: Task, folds: dict[str, int], fold: int, i: int, rates: dict[str, float], known: LogprobTable, folder: Path
) -> dict[str, Any]:
    """Train objective i on the other folds and score this one's responses."""
    objective = task.objectives[i]
    result = train_fresh(
        task,
        Examples(
            labelled(task, [row for row in task.splits.train if folds[row.key] != fold], objective, known),
            labelled(task, task.splits.validation, objective, known),
        ),
        lr=rates[objective],
        checkpoint=folder / FOLDER / f"{fold}-{objective}.pt",
        order=("calibrate", fold),
        fold=fold,
        objective=objective,
    )
    result.policy.save(folder / "adapters" / f"{fold}-{objective}", task.backbone)
    rows = [row for row in task.splits.train if folds[row.key] == fold]
    table = LogprobTable()
    for row in rows:
        table.put(REFERENCE, task.group(row), known.of(task.group(row), [REFERENCE])[:, 0])
    with task.engine() as engine:
        table.fill(
            engine,
            task.span([result.policy]),
            [task.group(row) for row in rows],
            {policy(objective): (1.0,)},
            Journal(folder, f"score-{fold}-{objective}", task.progress),
        )
    scored = [table.of(task.group(row), [policy(objective)])[:, 0].tolist() for row in rows]
    history = [{"objective": objective, "fold": fold, **record} for record in result.history]
    return {"logprobs": scored, "history": history}
