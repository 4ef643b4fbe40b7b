"""Several seeds: what training and sampling leave to chance is in the error bars."""

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt

import moocore
import numpy as np
from scipy.special import stdtrit

from sipo.errors import SipoError
from sipo.pareto.indicators import Array, signs
from sipo.pareto.verdicts import ROUNDING, Difference, mean_difference


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


def over_seeds_and_prompts(
    differences: Sequence[Array], prompts: Sequence[Sequence[str]] | None = None, largest: float = 0.0
) -> Difference:
    """The mean over S seeds of paired differences, [P] of each, with an error that holds both seeds and prompts.

    `prompts` names those of every seed; without it all are different. What a seed gives to all of its prompts does not
    average out over prompts, and what a prompt gives to all seeds not over seeds. So the variance is clustered both
    ways (Cameron, Gelbach and Miller 2011): that over the seeds and that over the prompts, less what both count, and
    at least the larger one. Where no prompt recurs it is that over the seeds. Degrees of freedom are Satterthwaite's.
    """
    by_seed = mean_difference(np.array([float(each.mean()) for each in differences]), largest)
    ends = list(accumulate(map(len, differences), initial=0))
    keys = [key for each in prompts for key in each] if prompts is not None else list(map(str, range(ends[-1])))
    share_K = np.concatenate([np.full(len(each), 1 / (len(each) * len(differences))) for each in differences])
    apart_K = share_K * (np.concatenate(list(differences)) - by_seed.value)
    _, place_K = np.unique(keys, return_inverse=True)
    number = int(place_K.max()) + 1
    if number == len(keys) or number < 2:
        return by_seed
    of_prompts = float((np.bincount(place_K, apart_K) ** 2).sum()) * number / (number - 1)
    of_both = float((apart_K**2).sum()) * len(keys) / (len(keys) - 1)
    of_seeds = by_seed.error**2
    variance = max(of_seeds, of_prompts, of_seeds + of_prompts - of_both)
    error = sqrt(variance)
    if error <= by_seed.error or error <= ROUNDING * max(largest, float(np.abs(apart_K / share_K).max())):
        return by_seed
    freedom = variance**2 / (of_seeds**2 / by_seed.freedom + of_prompts**2 / (number - 1))
    return Difference(by_seed.value, error, min(max(freedom, by_seed.freedom), number - 1))


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
