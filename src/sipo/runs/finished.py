"""A finished run, opened for use: a method's model at a preference weight, on the backbone that it was made with."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sipo.config import Config
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.view import View
from sipo.methods.interface import Aligned
from sipo.methods.registry import specs
from sipo.methods.spec import MethodSpec
from sipo.models.load import identify
from sipo.runs.folder import moment_of
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.status import read_run, read_subject, require
from sipo.task import Task
from sipo.weights import Weight, as_weight


def open_run(run: Path, weights: Mapping[str, float], method: str) -> tuple[Task, Aligned]:
    """The run's task, and the method's model at the weight; `base` and `policy:NAME` take any."""
    config = read_run(run)
    if method == "base" or method.startswith("policy:"):
        weights = dict.fromkeys(config.names, 1 / len(config.names))
    aligned = aligned_at(run, config, method, as_weight(weights, config.names, "weights"))
    check_model(run, config)
    task = Task(config)
    task.site.model = backbone_of(Path(run), config)
    task.site.moment = moment_of(Path(run)) or task.moment  # of this folder, wherever it has been moved to
    return task, aligned


def aligned_at(run: Path, config: Config, method: str, weight: Weight) -> Aligned:
    """The method's model at a weight. Raises SipoError where the run has not come so far."""
    spec = _spec_of(method)
    graph = Graph(config.model_copy(update={"methods": (spec.name,)}))  # it need not be one that the run compares
    needed = graph[f"answers/{spec.name}"]
    for stage in dict.fromkeys(needed.needs()):
        require(run, config, stage.name)
    view = cast(Config, View(config, spec.reads, method))
    found = {each.name: each for each in spec.build(view, **Outputs(run, config).inputs(needed))}
    if method not in found:
        raise SipoError(f"`{method}` is no single policy; they are {', '.join(found)}")
    return found[method].at(weight)


def _spec_of(method: str) -> MethodSpec:
    name = "policies" if method.startswith("policy:") else method
    if name not in specs():
        names = [known for known in specs() if known != "policies"]
        raise SipoError(f"`{method}` is no method; they are {', '.join(names)}, and policy:NAME of an objective")
    return specs()[name]


def check_model(run: Path, config: Config) -> None:
    """Raise SipoError where another model has taken the place of the run's."""
    if identify(config.model) != read_subject(run)["model"]:
        raise SipoError(f"model {config.model.path}: is not the one that {run} was made with; put that one back")
