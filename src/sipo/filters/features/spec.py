"""What a feature declares in its own file: its name, what it needs, and how it measures responses.

A file of this package, or an entry point of the group `sipo.features`, holds its declarations as `FEATURES`. The
configuration reads them, so nothing here or at the top of such a file loads torch or scipy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sipo.declare.work import Plan, Work, nothing
from sipo.filters.contest import Array
from sipo.message import Message
from sipo.settings.section import check_name

if TYPE_CHECKING:
    from sipo.logprobs.packing import Group
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


class Answers(NamedTuple):
    """Responses to one prompt, as texts and as tokens."""

    prompt: tuple[Message, ...]
    texts: tuple[str, ...]
    group: "Group"


@dataclass(frozen=True)
class FeatureSpec:
    name: str
    """As `filter.features` has it."""
    says: str
    """What it is, in one line for people."""
    measure: "Callable[[Task, Sequence[Answers], LogprobTable], list[Array]]"
    """measure(task, answers, table): for each of them [R, F], the same F for all, finite. A row depends on its response
    and the prompt alone. `table` has the reference's log-probabilities, and with `unseen` the policies'."""
    unseen: bool = False
    """Does it go by the policies? Labelled rows are then scored by policies that were not trained on them."""
    reduced: bool = False
    """Are its columns many? A judge then sees their first `filter.components` principal components."""
    work: Callable[[Plan], Work] = nothing
    """What it has the backbone compute."""
    peak: Callable[[Any], float] | None = None
    """The most bytes that it holds, as a stage's; None where it asks no model."""
    fits: "Callable[[Task], None] | None" = None
    """fits(task) raises SipoError where something that it needs is not there."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no configuration could hold."""
        check_name(self.name)
