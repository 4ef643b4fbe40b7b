"""What a filter rule declares in its own file: its name and keys, what it needs, and how it chooses.

A file of this package, or an entry point of the group `sipo.filters`, holds its declarations as `RULES`. The
configuration reads them, so nothing here or at the top of such a file loads torch or scipy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work
from sipo.declare.work import nothing as no_work
from sipo.filters.contest import Decision, Pool
from sipo.settings import Weights
from sipo.settings.section import Section, rules_in
from sipo.weights import Weight, between, grid

if TYPE_CHECKING:
    from sipo.graph.build import Graph
    from sipo.task import Task


class Filter(Section):
    """Which candidate becomes y_c, and which rows keep one. `filter: calibrated` is short for its rule alone.

    Each rule has a class of its own, with the keys that it reads.
    """

    rule: str
    """How y_c is chosen; each rule reads keys of its own."""
    pool: Pool = "all"
    """Who may be chosen: all samples and rewrites; `kept`, each sample or the rewrite in its place; `rewrites` alone.
    """


class Outcome(NamedTuple):
    decisions: "Sequence[Decision]"
    """One for each contest, in order; none chooses a contender outside of the pool."""
    judge: Mapping[str, Any] | None = None
    """What people should know of judges that the rule fitted; `accuracy`, by objective, on pairs that they had not
    seen."""
    margins: Mapping[str, float] | None = None
    """By how much a candidate may be worse than an original for each judge, in its rewards' unit; None where it must be
    better."""


def nothing(_: "Graph") -> Inputs:
    return {}


def nowhere(_: Any) -> None:
    return None


def nobody(_: Any) -> tuple[Callable[..., Any], ...]:
    return ()


def no_model(_: Any) -> None:
    return None


@dataclass(frozen=True)
class RuleSpec:
    settings: type[Filter]
    """Its keys; `rule` is a Literal of its name, which has a default in the paper's alone."""
    says: str
    """What it chooses by, in one line for people."""
    decide: Callable[..., Outcome]
    """decide(task, contests, known, **inputs): `task.config.filter` are its settings, `known` what `score` returned."""
    needs: "Callable[[Graph], Inputs]" = nothing
    """What else `decide` is given; stages of its own are added to the graph here."""
    reads: tuple[str, ...] = ()
    """Keys that it reads outside of its own, such as `objectives.reward`."""
    soups: Callable[[Any], Weights | None] = nowhere
    """soups(settings): the weights at which soups must score all candidates, as the policies do in any case."""
    keeps: Callable[[Any, int, int, int], tuple[float, float]] | None = None
    """keeps(settings, N, samples, rewrites): the share of the rows that keep a response, from and to, with so many
    samples and rewrites to choose among for a prompt; None where nothing tells."""
    fits: "Callable[[Task], None] | None" = None
    """fits(task) raises SipoError where the rows do not give it what it needs."""
    asks: Callable[[Any], tuple[Callable[..., Any], ...]] = nobody
    """asks(settings): functions of other plug-ins that `decide` calls, whose code counts as its own."""
    places: tuple[str, ...] = ()
    """Keys that may name a file or a folder, which counts by its content."""
    work: Callable[[Plan], Work] = no_work
    """What it has the backbone compute."""
    peak: Callable[[Any], Callable[[Any], float] | None] = no_model
    """peak(settings): the most bytes that it holds, as a stage's; None where it asks no model."""
    explains: bool = False
    """Do its decisions hold all that speaks against a candidate?"""
    version: int = 1
    """Raised when it chooses otherwise than before: what an earlier version chose is then made anew."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no configuration could hold."""
        if len(names := rules_in(self.settings)) != 1:
            raise ValueError(f"{self.settings.__name__} is of the rules {', '.join(names)}; declare each by itself")
        if not issubclass(self.settings, Filter):
            raise ValueError(f"{self.settings.__name__} is no class of Filter")
        if not isinstance(self.reads, tuple):
            raise ValueError(f"reads of `{self.name}` is no tuple of keys")

    def judging_soups(self, config: Any) -> list[Weight]:
        """The weights of the soups by which it judges in a run, beside the policies."""
        asked = self.soups(config.filter)
        return between(grid(asked, config.names, "filter.weights")) if asked else []

    @property
    def name(self) -> str:
        """As `filter.rule` has it, and the report."""
        return rules_in(self.settings)[0]
