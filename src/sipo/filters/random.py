"""No filter: as many rows as the paper's rule keeps, and of each a candidate of the pool, both drawn by a seed.

The paper's ablation takes a random subset of the refined responses (`filter.pool: rewrites`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, Contest, Decision, Pool
from sipo.filters.paper import Implicit, decide_all, estimated, fits, keeps_of_all
from sipo.filters.spec import Outcome, RuleSpec

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


class Random(Implicit):
    """The keys of the paper's rule, which says how many rows stay."""

    rule: Literal["random"]
    """At random, in as many rows as the paper's rule keeps."""


Pick = Callable[[Contest, "NDArray[np.intp]", np.random.Generator], int]
"""pick(contest, places, generator): the place of the contender to choose, one of `places`."""


def anyone(_: Contest, places: "NDArray[np.intp]", generator: np.random.Generator) -> int:
    return int(generator.choice(places))


def decide_by_chance(
    contests: Sequence[Contest], decisions: Sequence[Decision], pool: Pool, seed: int, pick: Pick = anyone
) -> list[Decision]:
    """`decisions` are the paper's over the whole pool; as many of them stay, with another contender chosen."""
    generator = np.random.default_rng(seed)
    size = sum(CHOSEN in decision.fates for decision in decisions)
    open_ = [i for i, contest in enumerate(contests) if contest.eligible(pool).any()]
    drawn = set(generator.permutation(open_)[:size].tolist())
    result = []
    for i, (contest, decision) in enumerate(zip(contests, decisions, strict=True)):
        eligible = contest.eligible(pool)
        fates = ["not drawn" if may else NOT_IN_THE_POOL for may in eligible]
        if i in drawn:
            fates[pick(contest, eligible.nonzero()[0], generator)] = CHOSEN
        result.append(replace(decision, fates=tuple(fates), reasons=((),) * len(fates)))
    return result


def decide_by(pick: Pick, task: "Task", contests: Sequence[Contest], known: "LogprobTable") -> Outcome:
    """In as many rows as the paper's rule keeps, drawn by the run's seed, the contender that `pick` takes."""
    from sipo.decoding import seed_of

    settings = cast(Implicit, task.config.filter)
    kept = decide_all(task, contests, known, settings, "all")
    seed = seed_of(task.config.seed, "filter")
    chosen = decide_by_chance(contests, kept.decisions, settings.pool, seed, pick)
    return kept._replace(decisions=estimated(task, contests, known, chosen, settings.ridge))


RULES = (
    RuleSpec(
        Random,
        "at random, in as many rows as the paper's rule keeps",
        partial(decide_by, anyone),
        soups=lambda settings: settings.soups_at,
        keeps=keeps_of_all,
        fits=fits,
    ),
)
