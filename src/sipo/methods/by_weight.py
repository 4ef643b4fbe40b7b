"""Methods that train one model for each weight; at the corners they are the policies themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.commands import ratios
from sipo.declare.parts import ADAPTERS, TRAINING
from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work
from sipo.errors import SipoError
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec
from sipo.weights import Weight, between, corners, grid, is_near

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.declare.memory import Peaks
    from sipo.graph.build import Graph
    from sipo.task import Task
    from sipo.training.loop import Trained, Trainee

READS = ("seed", "data", "weights", "lora")
"""What training a model for each weight sees, beside what the policies were trained by."""


NEAREST = 5
"""Weights that are told where another one is asked for."""


def by_weight(name: str, objectives: Sequence[str], models: "Mapping[Weight, Policy]") -> Method:
    """The method that answers with the model of each weight."""
    from sipo.decoding import at_soup

    def at(weight: Weight) -> Aligned:
        found = next((models[each] for each in models if is_near(weight, each)), None)
        if found is None:
            near = sorted(models, key=lambda each: sum(abs(a - b) for a, b in zip(each, weight, strict=True)))[:NEAREST]
            known = "they are" if len(near) == len(models) else f"of {len(models)} the nearest are"
            said, *told = (ratios(dict(zip(objectives, each, strict=True))) for each in (weight, *near))
            raise SipoError(f"{name}: has a model for some weights, {said} not among them; {known} {'; '.join(told)}")
        return Aligned((found,), at_soup((1.0,)))

    return Method(name, at, trained=tuple(models))


@dataclass(frozen=True)
class Trainer:
    """What trains a model for every weight: train(task, folder, **needs) writes the adapters. Where `align.lr` is auto
    it is given `aligned` besides, for `sipo.training.policies.rates_of`.
    """

    train: Callable[..., Any]
    needs: "Callable[[Graph], Inputs]"
    work: Callable[[Plan], Work]
    combines: bool = False
    """Is every objective's gradient there at once?"""
    reads: tuple[str, ...] = READS

    def peak(self, peaks: "Peaks") -> float:
        config = peaks.config
        weights = between(grid(config.weights, config.names))
        return peaks.trained(peaks.both, len(weights), config.align, combines=self.combines)


def by_weight_spec(name: str, says: str, trainer: Trainer, *, version: int = 1, **more: Any) -> MethodSpec:
    """The declaration of such a method, with a stage of its name; `version` is of both."""

    def inputs(graph: "Graph") -> Inputs:
        trained = graph.on_backbone(
            name,
            trainer.train,
            (*trainer.reads, *graph.aligned_by),
            {**trainer.needs(graph), **graph.rates},
            writes=(ADAPTERS, TRAINING),
            work=trainer.work,
            peak=trainer.peak,
            version=version,
        )
        return {"adapters": trained[ADAPTERS], "policies": graph.policies}

    def build(config: Any, adapters: Path, policies: "Sequence[Policy]") -> list[Method]:
        return [by_weight(name, config.names, read_by_weight(adapters, grid(config.weights, config.names), policies))]

    return MethodSpec(name, says, needs=inputs, build=build, version=version, **{**more, "reads": ("weights",)})


def train_by_weight(task: "Task", trainee: "Callable[[Weight, Path], Trainee]", folder: Path) -> None:
    """Train a model for every weight of the grid that is no corner. Writes `adapters/<weight>` and `training.jsonl`.

    trainee(weight, place) is what is trained, with the settings of `align`; the path is for its checkpoints.
    """
    from sipo.disk.journal import FOLDER, Journal
    from sipo.disk.tables import write_records
    from sipo.training.policies import say_if_it_stayed, train_units, training_table

    weights = between(task.weights)

    def place(weight: Weight) -> Path:
        return folder / "adapters" / folder_of(weight)

    def learner(weight: Weight) -> "Trainee":
        return trainee(weight, folder / FOLDER / f"{folder_of(weight)}.pt")

    def keep(weight: Weight, result: "Trained | None") -> list[dict[str, Any]]:
        assert result is not None
        say_if_it_stayed(task, result, weight=weight)
        result.policy.save(place(weight), task.backbone)
        return [{"objective": folder_of(weight), **record} for record in result.history]

    journal = Journal(folder, "weights", task.progress)
    histories = train_units(task, journal, weights, learner, keep, settings=task.config.align, writes=place)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    if histories:
        task.progress.table("one model a weight", *training_table(histories))


def read_by_weight(adapters: Path, weights: Sequence[Weight], policies: "Sequence[Policy]") -> "dict[Weight, Policy]":
    """The trained models with the policies at the corners, by weight."""
    from sipo.bank import load_policy

    models = dict(zip(corners(len(policies)), policies, strict=True))
    models.update({w: load_policy(adapters / folder_of(w)) for w in between(weights)})
    return models


def folder_of(weight: Weight) -> str:
    return ",".join(f"{share:g}" for share in weight)
