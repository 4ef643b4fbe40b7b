"""Control: how far the weights move each objective, and how much of that a method keeps.

Hypervolume does not tell: a front may cover more ground while it shrinks towards a point. Points are [M, N] at weights
[M, N]; functions of `...` take any axes before these, for many fronts at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sipo.pareto.bootstrap import Array, percentile_interval
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import LEVEL

STARTS = ("mod", "soups")
"""Fronts whose ends are the policies that realignment begins from, the first at hand being what ranges are held
against."""
NARROW = 0.5
"""A front that keeps less than this share of a range is told of."""


def ranges(points_M_N: Array, weights_M_N: Array, maximise: Sequence[bool]) -> Array:
    """[..., N]: by how much an objective is better with all of the weight than with none, in its own unit.

    The least-squares line over the points. Unlike the largest less the smallest value it does not grow with noise, and
    it is negative where weight makes an objective worse. 0 where its share is the same at all points, and for a single
    point, which serves every weight.
    """
    shares_M_N = weights_M_N - weights_M_N.mean(axis=0)
    spread_N = (shares_M_N**2).sum(axis=0)
    rise = (shares_M_N * points_M_N).sum(axis=-2)
    return np.asarray(signs(maximise) * np.where(spread_N > 0, rise / np.where(spread_N > 0, spread_N, 1.0), 0.0))


def rank_agreement(points_M_N: Array, weights_M_N: Array, maximise: Sequence[bool]) -> Array:
    """[N]: Kendall's tau-b between the weight asked for an objective and what is got of it.

    1 where more weight always gives more, -1 where always less; NaN where either never changes.
    """
    first, second = np.triu_indices(len(weights_M_N), k=1)
    asked, got = (np.sign(each[first] - each[second]) for each in (weights_M_N, points_M_N * signs(maximise)))
    pairs = np.sqrt((asked**2).sum(axis=0) * (got**2).sum(axis=0))
    return np.asarray(np.where(pairs > 0, (asked * got).sum(axis=0) / np.where(pairs > 0, pairs, 1.0), np.nan))


def start_of(methods: Iterable[str]) -> str | None:
    """The method whose ranges the others' are held against, where there is one."""
    known = set(methods)
    return next((name for name in STARTS if name in known), None)


def kept(
    ranges_N: Array,
    start_N: Array,
    sampled_T_N: Array,
    start_T_N: Array,
    names: Sequence[str],
    family: int = 1,
) -> dict[str, Any]:
    """The share of the start's range that is kept, by objective, with 95 % intervals from the same resamples; None
    where the start itself moves the objective no further than noise. `narrow` lists the objectives that keep less than
    `NARROW` beyond the noise, of which so many statements are made at once as there are in the `family` (Bonferroni).
    """
    strict = 1 - LEVEL / family
    shares: dict[str, float | None] = dict.fromkeys(names)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(names)
    narrow = []
    for n, name in enumerate(names):
        if percentile_interval(start_T_N[:, n])[0] <= 0:
            continue
        shares[name] = float(ranges_N[n] / start_N[n])
        moved_T = start_T_N[:, n] > 0  # the few resamples in which the start stands still have no share
        intervals[name] = percentile_interval(sampled_T_N[moved_T, n] / start_T_N[moved_T, n])
        moves = percentile_interval(start_T_N[:, n], strict)[0] > 0
        if moves and percentile_interval(sampled_T_N[:, n] - NARROW * start_T_N[:, n], strict)[1] < 0:
            narrow.append(name)
    return {"kept": shares, "kept_interval": intervals, "narrow": narrow}


def least_kept(front: Mapping[str, Any]) -> tuple[str, float] | None:
    """Of a method in `fronts.json`, the objective whose range it keeps least of, and the share."""
    known = {name: share for name, share in front["kept"].items() if share is not None}
    return min(known.items(), key=lambda each: each[1]) if known else None
