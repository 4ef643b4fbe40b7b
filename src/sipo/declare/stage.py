"""A stage of a run as one object: its folder, its function, what it may see, what it is made from, what it costs.

Nothing here loads torch: `sipo status` and the configuration read it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.declare.work import Plan, Work, nothing

if TYPE_CHECKING:
    from sipo.declare.memory import Peaks


@dataclass(frozen=True)
class Part:
    """A kind of thing that a stage writes into its folder."""

    files: str
    """The file or folder that holds it; `.` is all of them."""
    read: Callable[[Sequence[Path], Sequence[str]], Any]
    """What later stages are given: read(where it lies, objectives). Several of a kind may be read as one."""


@dataclass(frozen=True)
class Output:
    """A part of what a stage writes, as an input of another."""

    stage: "Stage"
    part: Part


Inputs = Mapping[str, "Output | tuple[Output, ...] | Mapping[str, Output]"]
"""By the parameter that gets it: one output, several that are read as one, or one for each name."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A unit of a run that holds or does not."""

    name: str
    """Its folder in the run, and its line in `sipo status`: `align`, `answers/soups`, `round-2/sample`."""
    make: Callable[..., Any]
    """make(task, folder, **inputs, **given) writes the parts."""
    reads: tuple[str, ...] = ()
    """The keys of the configuration, with dots, that `make` can see: any other raises UndeclaredError."""
    inputs: Inputs = field(default_factory=dict)
    writes: tuple[Part, ...] = ()
    """What others read of it."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Constants of `make`, such as the round."""
    version: int = 1
    """Raised when the code writes something else than before: what an earlier version wrote is then made anew."""
    brought: tuple[Callable[..., Any], ...] = ()
    """What plug-ins bring to `make`. The code of other packages counts by its content, as `make`'s own does there."""
    backbone: Output | None = None
    """What the policies stand on, where the run makes that itself."""
    work: Callable[[Plan], Work] = nothing
    """What it costs, at most."""
    peak: "Callable[[Peaks], float] | None" = None
    """The most bytes that it holds; None where it asks no model."""

    def __getitem__(self, part: Part) -> Output:
        if part not in self.writes:
            raise KeyError(f"stage `{self.name}` writes no {part.files}")
        return Output(self, part)

    def is_like(self, other: "Stage") -> bool:
        """Do both write the same into the same folder?"""
        return self._written() == other._written()

    def _written(self) -> tuple[Any, ...]:
        made = [(each.__module__, each.__qualname__) for each in map(function_of, (self.make, *self.brought))]
        outputs = [(name, output.stage.name, output.part) for name, output in self.outputs()]
        return self.name, made, self.reads, outputs, self.writes, dict(self.given), self.version

    def needs(self) -> "Iterator[Stage]":
        """The stages that it is made from, the same one perhaps more than once."""
        for _, output in self.outputs():
            yield output.stage

    def outputs(self) -> Iterator[tuple[str, Output]]:
        """Every output that it is made from, with a name that tells it from the others."""
        if self.backbone:
            yield "backbone", self.backbone
        for name, given in self.inputs.items():
            match given:
                case Output():
                    yield name, given
                case tuple():
                    yield from ((f"{name}.{at}", each) for at, each in enumerate(given))
                case _:
                    yield from ((f"{name}.{key}", each) for key, each in given.items())


def function_of(made: Callable[..., Any]) -> Any:
    """The function below its partial ones; an object that is called counts as its class."""
    while isinstance(made, partial):
        made = made.func
    return made if hasattr(made, "__qualname__") else type(made)


def later(place: str) -> Callable[..., Any]:
    """The function at `module:name`, whose module is imported when it is called: a graph is there without torch."""
    module, _, name = place.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call
