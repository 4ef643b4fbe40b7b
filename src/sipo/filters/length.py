"""The longest candidate, or the shortest: what a filter that reads what it chooses is to be held against.

As many rows as the paper's rule keeps, and the same ones that `random` draws.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sipo.filters.contest import Contest
from sipo.filters.paper import Implicit, decide_all, estimated
from sipo.filters.random import Pick, decide_by_chance
from sipo.filters.spec import Outcome, RuleSpec

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


class Longest(Implicit):
    """The keys of the paper's rule, which says how many rows stay."""

    rule: Literal["longest"]
    """The longest candidate in tokens, in as many rows as the paper's rule keeps."""


class Shortest(Implicit):
    """The keys of the paper's rule, which says how many rows stay."""

    rule: Literal["shortest"]
    """The shortest."""


def by_length(sign: int) -> Pick:
    """Of the eligible contenders the longest, or with -1 the shortest; of equal ones the first."""

    def pick(contest: Contest, places: NDArray[np.intp], _: np.random.Generator) -> int:
        lengths = [sign * len(contest.contenders[at].tokens) for at in places]
        return int(places[int(np.argmax(lengths))])

    return pick


def _decide(task: "Task", contests: Sequence[Contest], known: "LogprobTable") -> Outcome:
    from sipo.decoding import seed_of

    settings = cast(Longest | Shortest, task.config.filter)
    kept = decide_all(task, contests, known, settings, "all")
    pick = by_length(1 if settings.rule == "longest" else -1)
    chosen = decide_by_chance(contests, kept, settings.pool, seed_of(task.config.seed, "filter"), pick)
    return Outcome(estimated(task, contests, known, chosen, settings.ridge))


RULES = tuple(
    RuleSpec(
        settings,
        f"the {settings.__name__.lower()} candidate, in as many rows as the paper's rule keeps",
        _decide,
        soups=lambda settings: settings.asks_soups,
    )
    for settings in (Longest, Shortest)
)
