"""Training a model for each weight of the grid, for the methods that do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sipo.disk.journal import FOLDER, resumable
from sipo.disk.tables import write_records
from sipo.methods.by_weight import folder_of
from sipo.stages.align import training_table
from sipo.task import Task
from sipo.training.loop import Trained
from sipo.weights import Weight, is_corner

Fit = Callable[[Weight, Path], Trained]
"""Trains the model of a weight; the path is for its checkpoints."""


def train_by_weight(task: Task, fit: Fit, folder: Path) -> None:
    """Train a model for every weight of the grid that is no corner. Writes `adapters/<weight>` and `training.jsonl`."""
    weights = [weight for weight in task.weights if not is_corner(weight)]

    def place(weight: Weight) -> Path:
        return folder / "adapters" / folder_of(weight)

    def one(weight: Weight) -> list[dict[str, Any]]:
        result = fit(weight, folder / FOLDER / f"{folder_of(weight)}.pt")
        result.policy.save(place(weight), task.backbone)
        return [{"objective": folder_of(weight), **record} for record in result.history]

    histories = resumable(folder, "weights", weights, one, task.progress, writes=place)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    if histories:
        task.progress.table("one model a weight", *training_table(histories))
