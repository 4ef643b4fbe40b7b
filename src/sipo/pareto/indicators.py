"""Fronts in numbers: how much they cover, how far they are from the best known front, how they spread.

A front is the mean reward vector of each weight: points [M, N], a row for each weight, and `maximise` says of each
objective whether larger is better. Functions of `...` take any axes before these, for many fronts at once.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def reference_below(points_M_N: Array, maximise: Sequence[bool], slack: float = 0.05) -> Array:
    """A reference point a little (`slack` of the range) worse than the worst of the points in each objective."""
    sign = signs(maximise)
    values = points_M_N * sign
    return np.asarray((values.min(axis=0) - slack * unit_ranges(values)) * sign)


def beyond(points_M_N: Array, reference_N: Array, maximise: Sequence[bool]) -> NDArray[np.bool_]:
    """[M, N]: where a point is not better than the reference, so that it adds no hypervolume."""
    sign = signs(maximise)
    return np.asarray(points_M_N * sign <= reference_N * sign)


def union_front(points_M_N: Array, maximise: Sequence[bool]) -> Array:
    """The points that no other dominates, each once: of all methods' points, the best known front."""
    return np.asarray(moocore.filter_dominated(points_M_N, maximise=list(maximise)))


def additive_epsilon(points_M_N: Array, target_K_N: Array, maximise: Sequence[bool]) -> float:
    """By how much every objective of the points must improve until they weakly dominate the target; smaller is better.

    0 for the target itself, negative where the points are ahead of it (Zitzler et al. 2003). One number serves all
    objectives, so bring them to one scale before.
    """
    return float(moocore.epsilon_additive(points_M_N, ref=target_K_N, maximise=list(maximise)))


def igd_plus(points_M_N: Array, target_K_N: Array, maximise: Sequence[bool]) -> float:
    """Mean distance from the target's points to what the points attain, counting only where they fall short.

    Smaller is better and 0 is the least: the points weakly dominate the target (Ishibuchi et al. 2015). A distance
    over all objectives, so bring them to one scale before.
    """
    return float(moocore.igd_plus(points_M_N, ref=target_K_N, maximise=list(maximise)))


def dominated_share(points_M_N: Array, others_K_N: Array, maximise: Sequence[bool]) -> float:
    """Share of the points that one of `others` dominates: no worse in any objective, better in one.

    Smaller is better; 0 where there are no others. With one front as others it is Zitzler's coverage of two sets, but
    that an equal point does not count as dominated.
    """
    sign = signs(maximise)
    mine, theirs = (points_M_N * sign)[:, None], (others_K_N * sign)[None]
    dominated_M_K = (theirs >= mine).all(axis=-1) & (theirs > mine).any(axis=-1)
    return float(dominated_M_K.any(axis=-1).mean())


def objective_ranges(points_M_N: Array) -> Array:
    """[..., N]: largest less smallest value of each objective; how far the weights steer, larger being further."""
    return np.asarray(points_M_N.max(axis=-2) - points_M_N.min(axis=-2))


def unit_ranges(points_M_N: Array) -> Array:
    """[N]: the objectives' ranges, as units; 1 for an objective that never moves, or by its rounding alone."""
    ranges = objective_ranges(points_M_N)
    return np.where(ranges <= 1e-12 * np.abs(points_M_N).max(axis=0), 1.0, ranges)


def spacing(points_M_N: Array) -> float:
    """Schott's spacing (1995); smaller is more even, 0 where every point is as far from its nearest neighbour.

    The standard deviation (with M - 1) of those distances, which are sums over the objectives: bring them to one
    scale before. Two points are always even; NaN for one.
    """
    if len(points_M_N) < 2:
        return float("nan")
    distances_M_M = np.abs(points_M_N[:, None] - points_M_N[None]).sum(axis=-1)
    np.fill_diagonal(distances_M_M, np.inf)
    return float(distances_M_M.min(axis=-1).std(ddof=1))


def mean_utility(points_M_N: Array, weights_M_N: Array, maximise: Sequence[bool]) -> Array:
    """[...]: mean over the weights of w . r, lower-is-better objectives taken negative; larger is better.

    Unlike hypervolume it asks that each weight's own point is good at that weight. Points may be a single one
    [1, N], which then serves every weight.
    """
    return np.asarray((points_M_N * signs(maximise) * weights_M_N).sum(axis=-1).mean(axis=-1))


def signs(maximise: Sequence[bool]) -> Array:
    """1 where larger is better, -1 where smaller is: rewards times signs are all to be maximised."""
    return np.where(np.asarray(maximise), 1.0, -1.0)
