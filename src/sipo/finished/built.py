"""The methods of a finished run, built from what its stages wrote."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from sipo.config import Config
from sipo.declare.stage import Output, Stage
from sipo.disk.run import moment_of
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.view import View
from sipo.methods.interface import Method
from sipo.methods.registry import built, specs
from sipo.methods.spec import MethodSpec
from sipo.models.load import identify
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_tokenizer
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.status import read_subject, require, stage_statuses
from sipo.task import Task

ALONE = "policy:"
"""Begins the names of the methods that `policies` builds."""


class Built:
    """Each method is built once, and each adapter read once: methods over the same policies share them."""

    def __init__(self, run: Path, config: Config) -> None:
        self.run, self.config = run, config
        self._outputs = _Once(run, config)
        self._methods: dict[str, Method] = {}

    def method(self, name: str) -> Method:
        """Raises SipoError where there is no such method, or the run has not come so far."""
        if name not in self._methods:
            spec = spec_of(name)
            stage = self._answers(spec)
            for needed in dict.fromkeys(stage.needs()):
                require(self.run, self.config, needed.name)
            view = cast(Config, View(self.config, spec.reads, name))
            found = {each.name: each for each in built(spec, view, self._outputs.inputs(stage))}
            if name not in found:
                raise SipoError(f"`{name}` is no single policy; they are {', '.join(found)}")
            self._methods |= found
        return self._methods[name]

    def names(self) -> Iterator[str]:
        """Those that can answer now: the methods that the run compares, then the others that its stages suffice for."""
        done = {each.name for each in stage_statuses(self.run, self.config) if each.state == "done"}
        for name in dict.fromkeys([*self.config.methods, *specs()]):
            spec = specs()[name]
            made = self._fits(spec) and done >= {stage.name for stage in self._answers(spec).needs()}
            if made and (spec.speaks is None or spec.speaks(self._tokenizer, self.config.objectives)):
                yield from [f"{ALONE}{each}" for each in self.config.names] if name == "policies" else [name]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return read_tokenizer(origin_of(backbone_of(self.run, self.config)))

    def _fits(self, spec: MethodSpec) -> bool:
        """Is it a method for policies of the run's kind?"""
        try:
            if spec.check:
                spec.check(self.config.model_copy(update={"methods": (spec.name,)}))
        except ValueError:
            return False
        return True

    def _answers(self, spec: MethodSpec) -> Stage:
        """The stage that asks the method, which need not be one that the run compares."""
        return Graph(self.config.model_copy(update={"methods": (spec.name,)}))[f"answers/{spec.name}"]


def task_of(run: Path, config: Config) -> Task:
    """The run's task, on what its policies stand on. Raises SipoError where another model is in its model's place."""
    check_model(run, config)
    task = Task(config)
    task.site.model = backbone_of(run, config)
    task.site.moment = moment_of(run) or task.moment  # of this folder, wherever it has been moved to
    return task


def check_model(run: Path, config: Config) -> None:
    """Raise SipoError where another model has taken the place of the run's."""
    if identify(config.model) != read_subject(run)["model"]:
        raise SipoError(f"model {config.model.path}: is not the one that {run} was made with; put that one back")


class _Once(Outputs):
    """Outputs of a run that is not worked on: each is read once."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, config)
        self._known: dict[tuple[Any, ...], Any] = {}

    def _read(self, outputs: tuple[Output, ...]) -> Any:
        key = tuple((each.stage.name, each.part) for each in outputs)
        if key not in self._known:
            self._known[key] = super()._read(outputs)
        return self._known[key]


def spec_of(method: str) -> MethodSpec:
    name = "policies" if method.startswith(ALONE) else method
    if name not in specs():
        names = [known for known in specs() if known != "policies"]
        raise SipoError(f"`{method}` is no method; they are {', '.join(names)}, and {ALONE}NAME of an objective")
    return specs()[name]
