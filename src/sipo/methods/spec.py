"""What a method declares in its own file: its name, what it is made from, what it reads and costs, how it looks.

A file of this package, or an entry point of the group `sipo.methods`, holds its declarations as `METHODS`. The
configuration reads them, so nothing here or at the top of such a file loads torch.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work, written
from sipo.looks import Look
from sipo.settings.section import Section, check_name, field_of
from sipo.weights import Weight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sipo.data import Row
    from sipo.declare.memory import Peaks
    from sipo.graph.build import Graph
    from sipo.methods.interface import Method
    from sipo.rewards.objective import Objective
    from sipo.task import Task


SECTION = r"^[a-z][a-z0-9_]*$"


def on_policies(graph: "Graph") -> Inputs:
    """The policies that DPO made, one for each objective."""
    return {"policies": graph.policies}


def one_model(_: Weight) -> int:
    return 1


def shares(weight: Weight) -> int:
    """As many as have a share: what MOD over the policies asks."""
    return sum(share > 0 for share in weight)


@dataclass(frozen=True)
class MethodSpec:
    name: str
    """As the configuration's `methods` has it, and the report."""
    says: str
    """What it is, in one line for people."""
    build: "Callable[..., Sequence[Method]]"
    """build(config, **inputs): the method, or several that are answered as one stage. `config` shows `reads` alone."""
    needs: "Callable[[Graph], Inputs]" = on_policies
    """The outputs that its models are built from; stages of its own are added to the graph here."""
    reads: tuple[str, ...] = ()
    look: Look | None = None
    """In pictures and tables; None takes a spare one."""
    models: Callable[[Weight], int] = one_model
    """How many models write a response at a weight, token by token."""
    exported: bool = True
    """False where its answers are no model's, so that no adapter can hold it even where one model writes them."""
    answer: Callable[[Plan, Weight], Work] | None = None
    """What one held-out answer at a weight costs, at most; None is what its models cost that write it."""
    peak: "Callable[[Peaks], float] | None" = None
    """The most bytes that answering holds; None is what decoding prompts and responses does."""
    steered: bool = True
    """False where the weight changes nothing."""
    section: str | None = None
    settings: type[Section] | tuple[type[Section], ...] | None = None
    """The section of the configuration that holds its own keys, and their class; several, where each value of its key
    `rule` has other keys."""
    check: Callable[[Any], None] | None = None
    """check(config) raises ValueError for keys of its own that do not fit the others."""
    fits: "Callable[[Task], None] | None" = None
    """fits(task) raises SipoError where the rows leave it nothing to learn from."""
    encodes: "Callable[[Task, Sequence[Row]], None] | None" = None
    """encodes(task, rows) raises SipoError where what it asks those held-out rows with does not fit the model."""
    speaks: "Callable[[PreTrainedTokenizerBase, Sequence[Objective]], bool] | None" = None
    """speaks(tokenizer, objectives): are the words that it asks in the model's? None asks in no words of its own."""
    improves: bool = False
    """Does it stand on policies that have improved themselves (SIPO)?"""
    version: int = 1
    """Raised when its answers become others than before: those of an earlier version are then made anew."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no configuration could hold."""
        check_name(self.name)
        if not isinstance(self.reads, tuple):
            raise ValueError(f"reads of `{self.name}` is no tuple of keys")
        if (self.section is None) != (self.settings is None):
            raise ValueError(f"`{self.name}` has a section without settings, or settings without a section")
        if self.section is not None and self.settings is not None:
            if not re.match(SECTION, self.section):
                raise ValueError(f"the section `{self.section}` is no name of small letters, digits and _")
            field_of(self.settings)

    def answering(self, plan: Plan, weight: Weight) -> Work:
        """What one held-out answer at a weight costs, at most."""
        return self.answer(plan, weight) if self.answer else written(plan, self.models(weight))
