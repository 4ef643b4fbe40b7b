"""No filter: as many rows as the paper's rule keeps, and of each a candidate of the pool, both drawn by a seed.

The paper's ablation takes a random subset of the refined responses (`filter.pool: rewrites`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sipo.config.improvement import Pool
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, Contest, Decision


def decide_by_chance(
    contests: Sequence[Contest], decisions: Sequence[Decision], pool: Pool, seed: int
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
            fates[int(generator.choice(eligible.nonzero()[0]))] = CHOSEN
        result.append(replace(decision, fates=tuple(fates), reasons=((),) * len(fates)))
    return result
