"""How sure one can be of a mean over prompts: the bootstrap, with resamples that all methods share."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
NUMBERS = 1 << 24
"""How often each prompt is drawn is held for so many prompts of resamples at one time, 128 MiB."""


def known_prompts(values_M_P_N: Array) -> list[int]:
    """[N]: of how many prompts an objective's values are known at all points; NaN is one that is not."""
    return (~np.isnan(values_M_P_N)).all(axis=0).sum(axis=0).tolist()


def filled(values_M_P_N: Array) -> Array:
    """The values with numbers in place of NaN, such that the mean over all prompts is that over the known ones, and the
    spread of the values tells its error.

    A mean over those prompts that happen to be known is a ratio of two means. Its linearisation (delta method) has the
    mean m for what is not known, and m + (value - m) P / known for what is. Where nothing is missing nothing changes.
    """
    is_known = ~np.isnan(values_M_P_N)
    if is_known.all():
        return values_M_P_N
    share_M_1_N = is_known.mean(axis=1, keepdims=True)
    mean_M_1_N = np.where(is_known, values_M_P_N, 0.0).mean(axis=1, keepdims=True) / share_M_1_N
    return np.asarray(mean_M_1_N + np.where(is_known, values_M_P_N - mean_M_1_N, 0.0) / share_M_1_N)


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of the prompts, which all methods share, so that differences are paired. They are drawn anew
    whenever they are asked for: all at once they would be gigabytes where prompts are many.
    """

    prompts: int
    times: int
    seed: int

    def __iter__(self) -> Iterator[NDArray[np.intp]]:
        """[P] indices of one resample after the other."""
        generator = np.random.default_rng(self.seed)
        return (generator.integers(0, self.prompts, size=self.prompts) for _ in range(self.times))


def resampled_means(values_M_P_N: Array, resamples: Resamples) -> Array:
    """[T, M, N]: the mean over the prompts P of each resample."""
    models, prompts, objectives = values_M_P_N.shape
    at_once, means_T_M_N = max(1, NUMBERS // prompts), np.empty((resamples.times, models, objectives))
    draws = iter(resamples)
    for start in range(0, resamples.times, at_once):
        shares = np.empty((min(at_once, resamples.times - start), prompts))
        for share, draw in zip(shares, draws, strict=False):  # in this order: a share that is left over takes no draw
            np.divide(np.bincount(draw, minlength=prompts), prompts, out=share)
        means_T_M_N[start : start + at_once] = np.einsum("tp,mpn->tmn", shares, values_M_P_N, optimize=True)
    return means_T_M_N


def percentile_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """The central interval of bootstrap values along the first axis (percentile method)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return float(low), float(high)


def corrected(value: float, sampled_T: Array, error: float = 0.0, level: float = 0.95) -> tuple[float, float, float]:
    """A hypervolume, or a difference of two, without what noise adds to it: estimate, low and high end, in its unit.

    Noise lifts the maximum of points that are equal in truth by b, in proportion to its standard deviation. A resample
    holds the noise of the prompts and its own, which is as large, so it is lifted by sqrt(2) b: the rise from the value
    to the resamples' mean tells b. Where the points are clearly apart nothing rises and nothing is taken off. The
    interval is the normal one; what was taken off counts in it as an error of that size, since it is only estimated,
    and so does `error`, the standard error of a value that is an estimate itself.
    """
    lifted = (float(sampled_T.mean()) - value) / (sqrt(2) - 1)
    half = float(ndtri((1 + level) / 2)) * sqrt(float(sampled_T.var()) + lifted**2 + error**2)
    return value - lifted, value - lifted - half, value - lifted + half
