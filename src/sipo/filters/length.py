"""The longest candidate, or the shortest: what a filter that reads what it chooses is to be held against.

As many rows as the paper's rule keeps, and the same ones that `random` draws.
"""

from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sipo.filters.contest import Contest
from sipo.filters.paper import Implicit, fits, keeps_of_all
from sipo.filters.random import Pick, decide_by
from sipo.filters.spec import RuleSpec


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


RULES = tuple(
    RuleSpec(
        settings,
        f"the {settings.__name__.lower()} candidate, in as many rows as the paper's rule keeps",
        partial(decide_by, by_length(sign)),
        soups=lambda settings: settings.soups_at,
        keeps=keeps_of_all,
        fits=fits,
    )
    for settings, sign in ((Longest, 1), (Shortest, -1))
)
