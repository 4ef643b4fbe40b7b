"""The calibrated rule: a soft dominance by judges that were fitted out of fold, and the surest rows only.

For a candidate c, with u_i the judge's utility for objective i,

    a(c) = sum over objectives and originals of log sigmoid(u_i(c) - u_i(original))
    b(c) = sum over objectives of the mean over the other candidates of log sigmoid(u_i(c) - u_i(other))

y_c has the largest a + b of the pool, and the share `keep` of the rows with the largest a stays. A hard gate would
fail on ties at the ceiling of an objective; the product forgives them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_expit

from sipo.config.improvement import Pool
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision


def soft_dominance(utilities_R_N: Array) -> Array:
    """a [C]: log of the probability, taken as independent, of beating both originals everywhere. Larger is better."""
    candidates, originals = utilities_R_N[ORIGINALS:], utilities_R_N[:ORIGINALS]
    return np.asarray(log_expit(candidates[:, None] - originals[None]).sum(axis=(1, 2)))


def soft_rank(utilities_R_N: Array) -> Array:
    """b [C]: how a candidate does against the others; 0 where it is alone. Larger is better."""
    candidates = utilities_R_N[ORIGINALS:]
    others = len(candidates) - 1
    if others == 0:
        return np.zeros(1)
    against = log_expit(candidates[:, None] - candidates[None]).sum(axis=2)
    return np.asarray((against.sum(axis=1) - np.diagonal(against)) / others)


def decide_calibrated(
    contests: Sequence[Contest], utilities: Sequence[Array], objectives: Sequence[str], pool: Pool, keep: float
) -> list[Decision]:
    """`utilities`: for each contest [2 + C, N], larger is better."""
    sure = [soft_dominance(mine) for mine in utilities]
    best: list[int | None] = []
    for contest, mine, a in zip(contests, utilities, sure, strict=True):
        eligible = contest.eligible(pool)
        best.append(int(np.where(eligible, a + soft_rank(mine), -np.inf).argmax()) if eligible.any() else None)
    ranked = sorted((i for i, at in enumerate(best) if at is not None), key=lambda i: -sure[i][best[i]])
    kept = set(ranked[: round(keep * len(ranked))])
    decisions = []
    for i, (contest, mine, a) in enumerate(zip(contests, utilities, sure, strict=True)):
        eligible = contest.eligible(pool)
        fates = ["another is surer" if may else NOT_IN_THE_POOL for may in eligible]
        at = best[i]
        if at is not None:
            fates[at] = CHOSEN if i in kept else "not sure enough"
        judges = tuple(f"judge:{name}" for name in objectives)
        decisions.append(Decision(judges, mine, tuple(fates), ((),) * len(fates), np.exp(a)))
    return decisions
