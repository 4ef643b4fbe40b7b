"""The methods of a finished run, built from what its stages wrote."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from sipo.commands import ratios, sipo
from sipo.config import Config
from sipo.declare.parts import DISTILLED as POLICY
from sipo.declare.stage import Output, Stage
from sipo.decoding import at_soup
from sipo.disk.run import moment_of
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.distil import distilled, place_of
from sipo.graph.view import View
from sipo.methods.interface import Aligned, Method
from sipo.methods.registry import built, specs
from sipo.methods.spec import MethodSpec
from sipo.models.load import identify
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_tokenizer
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.status import distillations, read_subject, require, stage_statuses
from sipo.task import Task
from sipo.weights import Weight

ALONE = "policy:"
"""Begins the names of the methods that `policies` builds."""
MADE = "distilled:"
"""Begins the names of single policies that were made of a mixture (`sipo.finished.distil`)."""
DISTILLED = MethodSpec(
    "distilled", "one policy that learned the answers of a mixture, at the weights that it was made for",
    build=lambda *_, **__: (),
)  # fmt: skip
"""No method of a configuration: `sipo export --distil` adds it to a finished run."""


class Built:
    """Each method is built once, and each adapter read once: methods over the same policies share them."""

    def __init__(self, run: Path, config: Config) -> None:
        self.run, self.config = run, config
        self._outputs = _Once(run, config)
        self._methods: dict[str, Method] = {}
        self._made: dict[str, Aligned] = {}

    def method(self, name: str) -> Method:
        """Raises SipoError where there is no such method, or the run has not come so far."""
        if name.startswith(MADE):
            method = spec_of(name.removeprefix(MADE)).name
            return Method(name, partial(self._distilled, method))
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

    def trained(self, name: str) -> tuple[Weight, ...] | None:
        """The weights that it has models for; None where it answers at any. Raises SipoError as `method` does."""
        method = self.method(name)
        return self._distilled_at(name.removeprefix(MADE)) if name.startswith(MADE) else method.trained

    def names(self) -> Iterator[str]:
        """Those that can answer now: the methods that the run compares, then the others that its stages suffice for."""
        done = {each.name for each in stage_statuses(self.run, self.config) if each.state == "done"}
        for name in dict.fromkeys([*self.config.methods, *specs()]):
            spec = specs()[name]
            made = self._fits(spec) and done >= {stage.name for stage in self._answers(spec).needs()}
            if made and (spec.speaks is None or spec.speaks(self._tokenizer, self.config.objectives)):
                yield from names_of(name, self.config.names)

        mixtures = (each.method for each in distillations(self.run, self.config) if each.made)
        yield from dict.fromkeys(f"{MADE}{method}" for method in mixtures)

    def _distilled(self, method: str, weight: Weight) -> Aligned:
        """Raises SipoError where none was made at the weight."""
        place = place_of(method, weight)
        if place not in self._made:
            made = self._distilled_at(method)
            if all(place_of(method, each) != place for each in made):
                asked, known = self._shares(weight), "; ".join(map(self._shares, made))
                way = sipo("export", self.run, "--method", method, "--weights", asked, "--distil", "--to", "one")
                raise SipoError(
                    f"{self.run}: `{method}` was distilled at {known or 'no weight'}; `{way}` does it at {asked}"
                )
            stages = distilled(Graph(self.config.model_copy(update={"methods": (method,)})), method, weight)
            policy = self._outputs.of(stages.policy[POLICY])
            self._made[place] = Aligned((policy,), at_soup((1.0,)))
        return self._made[place]

    def _distilled_at(self, method: str) -> tuple[Weight, ...]:
        made = distillations(self.run, self.config)
        return tuple(each.weight for each in made if each.made and each.method == method)

    def _shares(self, weight: Weight) -> str:
        return ratios(dict(zip(self.config.names, weight, strict=True)))

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


def names_of(method: str, objectives: Sequence[str]) -> list[str]:
    """What a configuration's method is asked by: `policies` is a policy for each objective."""
    return [f"{ALONE}{each}" for each in objectives] if method == "policies" else [method]


def spec_of(method: str) -> MethodSpec:
    if method.startswith(MADE):
        return DISTILLED
    name = "policies" if method.startswith(ALONE) else method
    if name not in specs():
        names = [known for known in specs() if known != "policies"]
        raise SipoError(f"`{method}` is no method; they are {', '.join(names)}, and {ALONE}NAME of an objective")
    return specs()[name]
