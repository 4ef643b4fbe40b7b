"""Methods that train one model for each weight; at the corners they are the policies themselves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.bank import Adapter, load_adapter, save_adapter
from sipo.decoding import at_soup
from sipo.disk.journal import FOLDER, resumable
from sipo.disk.tables import write_records
from sipo.errors import SipoError
from sipo.methods.interface import Aligned, Method
from sipo.stages.align import training_table
from sipo.task import Task
from sipo.training.loop import Trained
from sipo.weights import Weight, corners, is_corner

Fit = Callable[[Weight, Path], Trained]
"""Trains the model of a weight; the path is for its checkpoints."""


def by_weight(name: str, models: Mapping[Weight, Adapter]) -> Method:
    """The method that answers with the model of each weight."""

    def at(weight: Weight) -> Aligned:
        if weight not in models:
            known = "; ".join(",".join(f"{share:g}" for share in each) for each in models)
            raise SipoError(f"{name}: is trained for each weight, and {weight} is none of them; they are {known}")
        return Aligned((models[weight],), at_soup((1.0,)))

    return Method(name, at)


def train_by_weight(task: Task, fit: Fit, folder: Path) -> None:
    """Train a model for every weight of the grid that is no corner. Writes `adapters/<weight>` and `training.jsonl`."""
    weights = [weight for weight in task.weights if not is_corner(weight)]

    def place(weight: Weight) -> Path:
        return folder / "adapters" / folder_of(weight)

    def one(weight: Weight) -> list[dict[str, Any]]:
        result = fit(weight, folder / FOLDER / f"{folder_of(weight)}.pt")
        save_adapter(result.adapter, place(weight), task.backbone.source)
        return [{"objective": folder_of(weight), **record} for record in result.history]

    histories = resumable(folder, "weights", weights, one, task.progress, writes=place)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    if histories:
        task.progress.table("one model a weight", *training_table(histories))


def read_by_weight(folder: Path, weights: Sequence[Weight], policies: Sequence[Adapter]) -> dict[Weight, Adapter]:
    """The trained models with the policies at the corners, by weight."""
    models = dict(zip(corners(len(policies)), policies, strict=True))
    models.update({w: load_adapter(folder / "adapters" / folder_of(w)) for w in weights if not is_corner(w)})
    return models


def folder_of(weight: Weight) -> str:
    return ",".join(f"{share:g}" for share in weight)
