"""Several seeds: the seed is the unit, so what training and sampling leave to chance is in the error bars."""

from collections.abc import Sequence
from math import sqrt

import moocore
import numpy as np
from scipy.special import stdtrit

from sipo.errors import SipoError
from sipo.pareto.indicators import Array, signs


def t_interval(values_S: Sequence[float] | Array, level: float = 0.95) -> tuple[float, float, float]:
    """Mean over S seeds, and the low and high end of Student's t interval for it, in the values' unit.

    For two methods give their differences, seed by seed: what the seeds share cancels.
    """
    values = np.asarray(values_S, dtype=float)
    if len(values) < 2:
        raise SipoError("an interval over seeds needs two seeds or more")
    mean = float(values.mean())
    half = stdtrit(len(values) - 1, (1 + level) / 2) * float(values.std(ddof=1)) / sqrt(len(values))
    return mean, mean - half, mean + half


def attainment(fronts: Sequence[Array], maximise: Sequence[bool], levels: Sequence[float] = (0.5,)) -> list[Array]:
    """Empirical attainment surfaces of two objectives, one for each level in (0, 1], by their corners [K, 2].

    `fronts` holds one front [M, 2] a seed. A surface bounds what at least that share of the seeds attains: weakly
    dominates (Fonseca et al. 2011). Corners are in the objectives' own units, the first one rising.
    """
    if any(front.shape[1] != 2 for front in fronts):
        raise SipoError("attainment surfaces are drawn for two objectives; choose two of them")
    sign = signs(maximise)
    points = np.concatenate(fronts) * -sign  # moocore minimises here
    seeds = np.repeat(np.arange(len(fronts)), [len(front) for front in fronts])
    surfaces = []
    for level in levels:
        corners = moocore.eaf(points, seeds, percentiles=[100 * level])[:, :2] * -sign
        surfaces.append(corners[np.argsort(corners[:, 0])])
    return surfaces


def staircase(corners_K_2: Array, end_2: Array) -> Array:
    """[2K + 1, 2]: the line along a surface's corners, from and to the worst values worth drawing, `end`.

    Between two corners it turns where both objectives are at their worse value; directions do not matter to it.
    """
    best_first = corners_K_2[np.argsort(np.abs(corners_K_2[:, 0] - end_2[0]))]
    xs, ys = best_first.T
    turns = np.stack([np.concatenate([end_2[:1], xs]), np.concatenate([ys, end_2[1:]])], axis=1)
    line = np.empty((2 * len(xs) + 1, 2))
    line[0::2], line[1::2] = turns, best_first
    return line
