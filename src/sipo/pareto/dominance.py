"""Who is better in every respect: strict dominance or non-inferiority, and the paper's choice among candidates.

Arrays are rewards, larger is better; letters name axes: C candidates, R rewards (judges), O originals.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dominates(candidates_C_R: Array, originals_O_R: Array, margins_R: Array | None = None) -> NDArray[np.bool_]:
    """[C]: is the candidate strictly better than *every* original by *every* reward (SIPO, Eq. 7)?

    With margins, each at least 0 and in its reward's unit: is it worse than no original by more than the margin, and
    better than each by one reward (non-inferiority)? Without, a candidate that equals an original anywhere is not
    better. Doctest:

    >>> candidates, originals = np.array([[2.0, 2.0], [2.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> dominates(candidates, originals), dominates(candidates, originals, np.zeros(2))
    (array([ True, False]), array([ True,  True]))
    """
    candidates, originals = candidates_C_R[:, None, :], originals_O_R[None, :, :]
    if margins_R is None:
        return np.asarray((candidates > originals).all(axis=(1, 2)))
    nowhere_worse = (candidates - originals >= -margins_R).all(axis=(1, 2))
    return np.asarray(nowhere_worse & np.asarray((candidates > originals).any(axis=2)).all(axis=1))


def truly_better(candidates_C_N: Array, originals_O_N: Array) -> NDArray[np.bool_]:
    """[C]: is the candidate at least as good as every original in every objective, and better than each in one?

    What a chosen response is held against where true rewards are known; ties are forgiven, unlike in Eq. 7.

    >>> truly_better(np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 1.0]]))
    array([ True, False])
    """
    return dominates(candidates_C_N, originals_O_N, np.zeros(candidates_C_N.shape[1]))


def choose(candidates_C_R: Array, originals_O_R: Array, margins_R: Array | None = None) -> int | None:
    """Index of the dominating candidate with the largest mean reward, the first of equals; None without one."""
    better = dominates(candidates_C_R, originals_O_R, margins_R)
    if not better.any():
        return None
    return int(np.where(better, candidates_C_R.mean(axis=1), -np.inf).argmax())


def reasons(
    candidate_R: Array, originals_O_R: Array, judges: Sequence[str], margins_R: Array | None = None
) -> list[str]:
    """Why a candidate does not dominate: each original and judge that finds it no better, or with margins worse by
    more than that; empty if it does.
    """
    found = []
    for o, original in enumerate(originals_O_R):
        for at, judge in enumerate(judges):
            mine, theirs = candidate_R[at], original[at]
            if margins_R is None and not mine > theirs:
                found.append(_why("no better than", o, judge))
            elif margins_R is not None and not mine - theirs >= -margins_R[at]:
                found.append(_why("worse than", o, judge))
        if margins_R is not None and not (candidate_R > original).any():
            found.append(f"better than response_{o} for no judge")
    return found


@cache
def _why(how: str, original: int, judge: str) -> str:
    """One text for all candidates, of which most have many."""
    return f"{how} response_{original} for {judge}"
