"""Fronts in numbers: hypervolume, and how sure one can be of it.

A front is the mean reward vector of each weight, in the objectives' own units and directions.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def hypervolume(points_M_N: Array, reference_N: Array, maximise: Sequence[bool]) -> float:
    """Volume that the points dominate above the reference point; larger is better.

    Its unit is the product of the objectives' units. A point that is not better than the reference in every
    objective adds nothing.
    """
    return float(moocore.hypervolume(points_M_N, ref=reference_N, maximise=list(maximise)))


def reference_below(points_M_N: Array, maximise: Sequence[bool], slack: float = 0.05) -> Array:
    """A reference point a little (`slack` of the range) worse than the worst of the points in each objective."""
    sign = np.where(np.asarray(maximise), 1.0, -1.0)
    values = points_M_N * sign
    low, high = values.min(axis=0), values.max(axis=0)
    return np.asarray((low - slack * np.maximum(high - low, 1e-9)) * sign)


def resamples(prompts: int, times: int, seed: int) -> NDArray[np.intp]:
    """[times, prompts] indices of bootstrap resamples. All methods share them, so differences are paired."""
    return np.random.default_rng(seed).integers(0, prompts, size=(times, prompts))


def percentile_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """The central interval of bootstrap values along the first axis (percentile method)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return float(low), float(high)
