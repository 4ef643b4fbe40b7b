"""Hypervolume: the volume that a front dominates above a reference point, exact or, of many objectives, by sampling.

Exact algorithms take time exponential in the objectives. The volume is that of a union of boxes, one for each point,
and Karp and Luby's estimate of such a union (1983; for hypervolume Bringmann and Friedrich 2010) has a relative error
that neither the objectives nor an empty space between the boxes raise. A box is drawn by its volume, and a point in it;
along the ray through that point a box reaches up to t_m, and fills a share of the ray's volume t_m^N. So the mean of
max t^N / sum t^N, times the boxes' volumes summed, is the union's. The points are Sobol's, scrambled anew in every net:
the nets' spread is the standard error. All fronts share the points, so they cancel in differences.
"""

from collections.abc import Sequence
from functools import cache

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

Array = NDArray[np.float64]
EXACT = 5
"""Of at most so many objectives it is exact."""
NETS = 8
POINTS = 64
"""Of each net, a power of two. With 21 points in 6 to 10 objectives a standard error is some 1 % of the volume."""
CELLS = 2**18
"""Numbers that are worked on at one time: as many as a processor's cache holds."""

NOTHING = np.float32(1e-30)
"""Of a side, as a share of the longest: less is as good as none."""


def hypervolume(points_M_N: Array, reference_N: Array, maximise: Sequence[bool]) -> float:
    """Volume that the points dominate above the reference point; larger is better.

    Its unit is the product of the objectives' units. A point that is not better than the reference in every
    objective adds nothing. Beyond five objectives it is an estimate (`hypervolumes` tells how sure it is).
    """
    return float(hypervolumes(points_M_N[None], reference_N, maximise).mean())


def hypervolumes(points_T_M_N: Array, reference_N: Array, maximise: Sequence[bool]) -> Array:
    """[T, estimates]: the hypervolume of each front, several times by points of their own, or once where it is exact.

    The mean of a front's estimates is its hypervolume, and `standard_error` says how sure it is. The same fronts have
    the same estimates always.
    """
    if len(maximise) <= EXACT:
        larger = list(maximise)
        return np.array([[moocore.hypervolume(each, ref=reference_N, maximise=larger)] for each in points_T_M_N])
    sides = np.maximum((points_T_M_N - reference_N) * np.where(maximise, 1.0, -1.0), 0.0)
    longest = sides.max(axis=1, keepdims=True)
    sides /= np.where(longest > 0, longest, 1.0)
    volumes = sides.prod(axis=-1)  # [T, M]
    total = volumes.sum(axis=-1)
    upto = volumes.cumsum(axis=-1) / np.where(total > 0, total, 1.0)[:, None]
    at_once = max(1, CELLS // (sides.shape[1] * NETS * POINTS))
    parts = [
        _shares(sides[at : at + at_once].astype(np.float32), upto[at : at + at_once])
        for at in range(0, len(sides), at_once)
    ]
    return np.asarray(np.concatenate(parts) * (total * longest[:, 0].prod(axis=-1))[:, None])


def standard_error(estimates: Array) -> float:
    """Of their mean, in their unit; 0 of a single one, which is exact."""
    return float(estimates.std(ddof=1) / np.sqrt(len(estimates))) if len(estimates) > 1 else 0.0


def _shares(sides: NDArray[np.float32], upto: Array) -> Array:
    """[T, nets]: the share that the union of boxes has of their volumes' sum. `upto` [T, M] runs up to 1."""
    which_u, *place_u = _points(sides.shape[-1] + 1)
    box = np.minimum((which_u > upto[..., None]).sum(axis=1), sides.shape[1] - 1)  # [T, points]
    reach = np.full((*sides.shape[:2], len(which_u)), np.inf, dtype=np.float32)
    for side, u in zip(np.moveaxis(sides, -1, 0), place_u, strict=True):
        steps = 1 / (np.maximum(np.take_along_axis(side, box, axis=1), NOTHING) * u)
        np.minimum(reach, side[..., None] * steps[:, None], out=reach)
    reach /= np.maximum(reach.max(axis=1, keepdims=True), 1)  # the box drawn reaches so far, where any is there
    filled = reach.copy()
    for _ in range(sides.shape[-1] - 1):
        filled *= reach
    shares = 1 / np.maximum(filled.sum(axis=1, dtype=np.float64), 1)
    return np.asarray(shares.reshape(len(sides), NETS, POINTS).mean(axis=-1))


@cache
def _points(dimensions: int) -> NDArray[np.float32]:
    """[dimensions, nets * points] above 0, up to 1."""
    nets = [qmc.Sobol(dimensions, rng=seed).random(POINTS) for seed in range(NETS)]
    return np.maximum(np.concatenate(nets), 1e-6).T.astype(np.float32)
