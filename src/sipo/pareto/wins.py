"""Shares of wins as a judge tells them, and what they are worth: without its errors, and without its taste for length.

A win is 1, a loss 0, a tie .5, of an answer against another to the same prompt.
"""

from collections.abc import Sequence
from math import inf, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtrit

from sipo.pareto.bootstrap import Array

LIKE = log(1.25)
"""Lengths are alike where their ratio has at most this logarithm, up or down."""
PSEUDO = (1.0, 1.0, 0.0, 0.0)
"""Counted among observed wins where their variance is estimated, so that few that are alike do not pass for certainty
(Agresti and Coull 1998)."""
ROUNDS, RIDGE = 50, 1e-3
"""Newton steps at most, and a slight pull of every parameter towards 0: what always wins has an estimate, too."""


class Rate(NamedTuple):
    """A share from 0 to 1 with the ends of its interval; the value is None where nothing can be said."""

    value: float | None
    low: float
    high: float


def win_rate(wins_P: Array, right_K: Array | None = None, level: float = 0.95) -> Rate:
    """The share of wins, from the mean win at each of P independent prompts. Without `right_K` that is the judge's, by
    a t interval.

    `right_K` says of K independent labelled pairs whether the judge found what the label says: 1, 0, or .5 for a tie.
    Then it is the share that the labels would give. A judge that is right with probability a, whichever of the two
    wins, shows a share p as 1/2 + (2a - 1)(p - 1/2); this is solved for p (Rogan and Gladen 1978, with sensitivity and
    specificity both a, as they are where both orders are asked). The interval is Fieller's of the ratio, so that it
    holds the uncertainty of a, and all of [0, 1] where a may be 1/2. Rests on a being that of the pairs compared.
    Raises ValueError without prompts, or without pairs where `right_K` is given.
    """
    if not len(wins_P) or (right_K is not None and not len(right_K)):
        raise ValueError("there is nothing to take a share of")
    x, error_x = float(np.mean(wins_P)) - 0.5, _error(wins_P)
    y, error_y = (1.0, 0.0) if right_K is None else (2 * float(np.mean(right_K)) - 1, 2 * _error(right_K))
    units = len(wins_P) if right_K is None else min(len(wins_P), len(right_K))
    t = float(stdtrit(units - 1, (1 + level) / 2)) if units > 1 else inf
    if y <= 0:
        return Rate(None, 0.0, 1.0)
    value = min(1.0, max(0.0, 0.5 + x / y))
    if t == inf or (t * error_y) ** 2 >= y**2:
        return Rate(value, 0.0, 1.0)
    # All r with (x - r y)^2 <= t^2 (error_x^2 + r^2 error_y^2).
    square = y**2 - (t * error_y) ** 2
    half = t * sqrt(error_x**2 * square + (x * error_y) ** 2)
    return Rate(value, max(0.0, 0.5 + (x * y - half) / square), min(1.0, 0.5 + (x * y + half) / square))


def of_like_length(ratios_K: Array) -> NDArray[np.bool_]:
    """[K]: whether neither answer is more than a quarter longer; ratios are log lengths less those of the others."""
    return np.abs(ratios_K) <= LIKE + 1e-9


def at_equal_length(
    wins_K: Array, longer_K: Array, groups_K: Sequence[int], prompts_K: Sequence[int], level: float = 0.95
) -> tuple[list[Rate], float]:
    """The share of wins of each group of answers, were they as long as what they were held against; and how much
    length is worth to the judge, in logits: positive where it likes the longer.

    `longer_K` is by how much the answer is longer, in any unit; `prompts_K` numbers the prompts, which are independent
    where answers to one are not. A logistic regression with a parameter for each group and one for tanh(longer / its
    root mean square), much as in length-controlled AlpacaEval (Dubois et al. 2024), but with one taste for length, the
    judge's, for all groups. What of quality goes along with length within a group is taken for taste. Intervals are
    those of the logits, by the sandwich estimator over prompts, with `PSEUDO` counted in every group.
    """
    wins_K, longer_K, groups = np.asarray(wins_K, float), np.asarray(longer_K, float), np.asarray(groups_K)
    count, prompts = int(groups.max()) + 1, np.unique(prompts_K, return_inverse=True)[1]
    spread = float(np.sqrt(np.mean(longer_K**2)))
    length = np.tanh(longer_K / spread) if spread else np.zeros(len(wins_K))
    values, _ = _logistic(groups, length, wins_K)

    groups = np.concatenate([groups, np.repeat(np.arange(count), len(PSEUDO))])
    length = np.concatenate([length, np.zeros(count * len(PSEUDO))])
    wins_K = np.concatenate([wins_K, np.tile(PSEUDO, count)])
    units = int(prompts.max()) + 1
    unit_of = np.concatenate([prompts, units + np.arange(count * len(PSEUDO))])
    centre, curvature = _logistic(groups, length, wins_K)
    left_K = wins_K - expit(centre[groups] + centre[count] * length)
    scores_U_F = np.zeros((int(unit_of.max()) + 1, count + 1))
    np.add.at(scores_U_F, (unit_of, groups), left_K)
    scores_U_F[:, count] = np.bincount(unit_of, length * left_K)
    half_F = np.sqrt(np.diag(np.linalg.solve(curvature, np.linalg.solve(curvature, scores_U_F.T @ scores_U_F).T)))
    half_F *= stdtrit(units - 1, (1 + level) / 2) if units > 1 else inf
    rates = []
    for value, middle, half in zip(expit(values), centre[:count], half_F[:count], strict=False):
        low, high = (float(expit(middle + sign * half)) for sign in (-1, 1))
        rates.append(Rate(float(value), min(low, float(value)), max(high, float(value))))
    return rates, float(values[count])


def _logistic(groups_K: NDArray[np.intp], length_K: Array, wins_K: Array) -> tuple[Array, Array]:
    """A parameter for each group and then that of length [F], and the curvature [F, F] there."""
    parameters = np.zeros(int(groups_K.max()) + 2)

    def sums(values_K: Array) -> Array:
        """[F] of the values by group, and times length."""
        return np.append(np.bincount(groups_K, values_K), length_K @ values_K)

    for _ in range(ROUNDS):
        says_K = expit(parameters[groups_K] + parameters[-1] * length_K)
        slope = sums(wins_K - says_K) - RIDGE * parameters
        spread_K = says_K * (1 - says_K)
        curvature = np.diag(sums(spread_K) + RIDGE)
        curvature[-1] = curvature[:, -1] = sums(spread_K * length_K)
        curvature[-1, -1] += RIDGE
        step = np.linalg.solve(curvature, slope)
        parameters += step * min(1.0, 4.0 / max(4.0, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-9:
            break
    return parameters, curvature


def _error(values: Array) -> float:
    """Of a mean of values in [0, 1]."""
    return float(np.concatenate([values, PSEUDO]).std(ddof=1)) / sqrt(len(values) + len(PSEUDO))
