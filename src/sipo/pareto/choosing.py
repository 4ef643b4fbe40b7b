"""Which point of a front to use: by bounds on some objectives and the best of another, by the knee, or by equal gains.

Means are [M, N] over M points and N objectives; `maximise` says of each objective whether larger is better.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from scipy.sparse import hstack, identity
from scipy.special import logsumexp, ndtr, ndtri, softmax, stdtrit

from sipo.pareto.bootstrap import Array, Resamples, resampled_means
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import ENOUGH, decide, mean_difference, nearly_constant

STEEPEST = 50.0
"""Of the multipliers of rewards in units of their standard deviation: the best answer then has almost all weight."""


def simultaneous_intervals(rewards_M_P_N: Array, times: int, seed: int, level: float = 0.95) -> tuple[Array, Array]:
    """Low and high ends [M, N] that hold all M x N means at once with the probability `level`, over the prompts P.

    A choice among points looks at all of them, so intervals of single points say too much. Each mean's standard error
    is widened by the same factor: the bootstrap's quantile of the largest of all studentised deviations (max-t), below
    30 prompts Bonferroni's bound, and as Student's t has it. So a few prompts promise little, and a single one nothing.

    Values of a point that hardly ever depart from one, as at a ceiling, do not tell their spread: two at either end of
    the objective's range over all points are counted with them (Agresti and Coull 1998).
    """
    means, prompts = rewards_M_P_N.mean(axis=1), rewards_M_P_N.shape[1]
    if prompts < 2:
        return np.full_like(means, -np.inf), np.full_like(means, np.inf)
    normal = float(ndtri(1 - (1 - level) / (2 * means.size)))  # Bonferroni's bound
    if prompts >= ENOUGH:
        sampled = resampled_means(rewards_M_P_N, Resamples(prompts, times, seed))
        spread = sampled.std(axis=0)
        moving = spread > 0
        if moving.any():
            deviations = np.abs(sampled - means)[:, moving] / spread[moving]
            normal = float(np.quantile(deviations.max(axis=1), level))
    errors = _errors(rewards_M_P_N)
    half = np.where(errors > 0, float(stdtrit(prompts - 1, ndtr(normal))) * errors, 0.0)
    return means - half, means + half


def _errors(rewards_M_P_N: Array) -> Array:
    """[M, N]: standard errors of the means over the prompts."""
    ends_N = np.stack([rewards_M_P_N.min(axis=(0, 1)), rewards_M_P_N.max(axis=(0, 1))]).repeat(2, axis=0).T
    errors = rewards_M_P_N.std(axis=1, ddof=1) / np.sqrt(rewards_M_P_N.shape[1])
    for m, n in np.ndindex(errors.shape):
        if nearly_constant(rewards_M_P_N[m, :, n]):
            more = np.concatenate([rewards_M_P_N[m, :, n], ends_N[n]])
            errors[m, n] = max(errors[m, n], more.std(ddof=1) / np.sqrt(len(more)))
    return errors


def within(means_M_N: Array, bounds_N: Array, maximise: Sequence[bool]) -> NDArray[np.bool_]:
    """[M]: which points are at least as good as the bounds; NaN bounds nothing."""
    sign = signs(maximise)
    return np.asarray(((means_M_N * sign >= bounds_N * sign) | np.isnan(bounds_N)).all(axis=1))


def shortfall(means_M_N: Array, bounds_N: Array, maximise: Sequence[bool]) -> Array:
    """[M]: by how much a point misses the bounds, summed in units of each objective's range; smaller is better, 0 is
    none.
    """
    sign = signs(maximise)
    missing = np.clip((bounds_N - means_M_N) * sign, 0.0, None)
    return np.asarray(np.nansum(missing / _ranges(means_M_N), axis=1))


def knee(means_M_N: Array, maximise: Sequence[bool]) -> int:
    """The point that is furthest above the plane through the points that are best in each objective, in units of each
    objective's range: there a step either way costs most.
    """
    gains = _gains(means_M_N, means_M_N, maximise)
    return int(np.argmax(gains.sum(axis=1)))


def bends(at: int, rewards_M_P_N: Array, maximise: Sequence[bool]) -> bool:
    """Whether the front bends at this point beyond what noise does, so that it is a knee: it is above each of those
    that are best in an objective, by the sum of its rewards in units of each objective's range, in t tests over the
    prompts P with Bonferroni's bound over all points that could have been the knee.
    """
    means_M_N, sign = rewards_M_P_N.mean(axis=1), signs(maximise)
    sums_M_P = (rewards_M_P_N * sign / _ranges(means_M_N)).sum(axis=-1)
    differences = [mean_difference(sums_M_P[at] - sums_M_P[end]) for end in set((means_M_N * sign).argmax(axis=0))]
    points, prompts = rewards_M_P_N.shape[:2]
    return all(decide(each, points * each.p, prompts=prompts, family=points)[0] == "above" for each in differences)


def equal_gain(means_M_N: Array, base_N: Array, maximise: Sequence[bool]) -> int:
    """The point whose smallest gain over the base model is largest, in units of the best gain of each objective; of one
    in which no point gains, in units of the greatest loss.
    """
    sign = signs(maximise)
    gained = (means_M_N - base_N) * sign
    best, worst = gained.max(axis=0), -gained.min(axis=0)
    unit = np.where(best > 0, best, np.where(worst > 0, worst, 1.0))
    return int(np.argmax((gained / unit).min(axis=1)))


def steadiness(rewards_M_P_N: Array, base_P_N: Array | None, maximise: Sequence[bool], times: int, seed: int) -> Array:
    """[M]: in what share of bootstrap resamples of the prompts P each point is the one chosen, by equal gain over the
    base model or, without one, as the knee. How far a choice is that of the prompts at hand.
    """
    draws = Resamples(rewards_M_P_N.shape[1], times, seed)
    means_T_M_N = resampled_means(rewards_M_P_N, draws)
    if base_P_N is None:
        chosen = [knee(means, maximise) for means in means_T_M_N]
    else:
        bases_T_N = resampled_means(base_P_N[None], draws)[:, 0]
        chosen = [equal_gain(means, base, maximise) for means, base in zip(means_T_M_N, bases_T_N, strict=True)]
    return np.bincount(chosen, minlength=len(rewards_M_P_N)) / times


class Tilt(NamedTuple):
    """The reweighting of a model's answers that meets bounds and departs least from it."""

    weights_N: Array
    """Shares of the objectives, each reward in units of its standard deviation; they sum to 1, or are all 0 where the
    model itself meets the bounds."""
    divergence: float
    """KL from the model, mean over the prompts, in nats."""


def tilted(samples_M_P_N: Array, bounds_N: Array, maximise: Sequence[bool]) -> Tilt | None:
    """MAP's dual over reference samples (Wang et al. 2024): M answers of a model to each of P prompts, reweighted in
    every prompt by exp(lambda . r), so that mean rewards meet the bounds (NaN bounds nothing). None where no
    reweighting of these answers does; more of them might.
    """
    bounded = ~np.isnan(bounds_N)
    if not bounded.any():
        return Tilt(np.zeros(len(bounds_N)), 0.0)
    signed_M_P_N = (samples_M_P_N * signs(maximise))[..., bounded]
    spread_N = signed_M_P_N.std(axis=(0, 1))
    scale_N = np.where(spread_N > 0, spread_N, 1.0)
    scaled_M_P_N, least_N = signed_M_P_N / scale_N, (bounds_N * signs(maximise))[bounded] / scale_N
    if not _feasible(scaled_M_P_N, least_N):
        return None

    def dual(lambda_N: Array) -> tuple[float, Array]:
        tilts_M_P = scaled_M_P_N @ lambda_N
        shares_M_P_1 = softmax(tilts_M_P, axis=0)[..., None]
        level = float((logsumexp(tilts_M_P, axis=0) - np.log(len(tilts_M_P))).mean())
        return level - float(lambda_N @ least_N), (shares_M_P_1 * scaled_M_P_N).sum(axis=0).mean(axis=0) - least_N

    start = np.zeros(int(bounded.sum()))
    found = minimize(dual, start, jac=True, method="L-BFGS-B", bounds=[(0.0, STEEPEST)] * len(start))
    weights_N = np.zeros(len(bounds_N))
    weights_N[bounded] = found.x / (found.x.sum() or 1.0)
    return Tilt(weights_N, max(0.0, -float(found.fun)))


def _feasible(samples_M_P_N: Array, least_N: Array) -> bool:
    """Do any shares of the M answers, summing to 1 for every prompt, bring the mean over prompts to `least`?"""
    answers, prompts, objectives = samples_M_P_N.shape
    found = linprog(
        np.zeros(answers * prompts),
        A_ub=-samples_M_P_N.reshape(-1, objectives).T / prompts,
        b_ub=-least_N,
        A_eq=hstack([identity(prompts)] * answers),
        b_eq=np.ones(prompts),
    )
    return bool(found.status == 0)


def _ranges(means_M_N: Array) -> Array:
    spread = np.ptp(means_M_N, axis=0)
    return np.where(spread > 0, spread, 1.0)


def _gains(means_M_N: Array, of_M_N: Array, maximise: Sequence[bool]) -> Array:
    """From 0, each objective's worst, to 1, its best."""
    sign = signs(maximise)
    return np.asarray((means_M_N * sign - (of_M_N * sign).min(axis=0)) / _ranges(of_M_N))
