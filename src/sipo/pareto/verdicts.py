"""When a difference may be called one: paired t tests, Holm over all that is stated at once, and what forbids it.

The unit U is what was drawn anew: the prompt within a run, the seed of training in a study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from sipo.pareto.bootstrap import Array

LEVEL = 0.05
"""Share of the families of statements that may hold a false one, were nothing different."""
POWER = 0.8
ENOUGH = 30
"""Prompts below which no verdict is given: the t test of skewed rewards is not to be trusted there."""
EVENTS = 5
"""Units that must differ from the commonest value for a t test to be trusted, as for a binomial share."""
ROUNDING = 1e-12
"""Of the largest value: what is smaller is the rounding of sums, and no difference."""

OPPOSED = "hypervolume says the opposite"

Word = Literal["above", "below", "not shown"]


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences with its standard error, in the values' unit."""

    value: float
    error: float
    freedom: int
    """Degrees of freedom: units less one; 0 where nothing can be said."""

    @property
    def p(self) -> float:
        """Two-sided, of Student's t test against 0."""
        if self.freedom < 1 or self.value == 0:
            return 1.0
        return 2 * float(stdtr(self.freedom, -abs(self.value) / self.error)) if self.error else 0.0

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error if self.freedom else 0.0
        return self.value - half, self.value + half

    @property
    def detectable(self) -> float | None:
        """The true difference that a test at 5 % finds with a power of 80 %, being made alone; None for one unit."""
        if self.freedom < 1:
            return None
        return float(stdtrit(self.freedom, 1 - LEVEL / 2) + stdtrit(self.freedom, POWER)) * self.error


def mean_difference(values_U: Array, largest: float = 0.0) -> Difference:
    """Of paired differences, one a unit; `largest` is the size of the numbers that they were computed from."""
    values_U = np.asarray(values_U, dtype=float)
    units = len(values_U)
    value = float(values_U.mean())
    error = float(values_U.std(ddof=1)) / sqrt(units) if units > 1 else 0.0
    rounding = ROUNDING * max(largest, float(np.abs(values_U).max()))
    return Difference(value if abs(value) > rounding else 0.0, error if error > rounding else 0.0, units - 1)


def holm(p_K: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): below 5 % for a statement that is true with 95 % over the whole family.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(p_K), 0.0
    for rank, k in enumerate(sorted(range(len(p_K)), key=lambda k: p_K[k])):
        running = max(running, min(1.0, (len(p_K) - rank) * p_K[k]))
        adjusted[k] = running
    return adjusted


def moving(a_M_U_N: Array, b_M_U_N: Array, weights_M_N: Array) -> list[bool]:
    """Of each objective, whether anything moves it beyond the noise: its own share of the weight in either method, or
    the change from one method to the other. A method of one point [1, U, N] has no weights.

    Three t tests with Bonferroni's bound. None is to be trusted where a method has nearly the same value in all units:
    the change must then be larger than a few units, fallen out otherwise, could make up.
    """
    largest = float(max(np.abs(a_M_U_N).max(), np.abs(b_M_U_N).max()))
    found = []
    for n in range(weights_M_N.shape[1]):
        share_M = weights_M_N[:, n] - weights_M_N[:, n].mean()
        slopes = [share_M @ (each[..., n] - each[:1, :, n]) for each in (a_M_U_N, b_M_U_N) if len(each) > 1]
        change = a_M_U_N[..., n].mean(axis=0) - b_M_U_N[..., n].mean(axis=0)
        tests = [mean_difference(each, largest).p for each in (*slopes, change)]
        values = [each[..., n] for each in (a_M_U_N, b_M_U_N)]
        rare = min(_departing(each.mean(axis=0)) for each in values) < min(EVENTS, len(change) - 1)
        made_up = EVENTS * float(np.ptp(np.concatenate(values))) / len(change)
        found.append(min(tests) * len(tests) < LEVEL and not (rare and abs(float(change.mean())) < made_up))
    return found


def _departing(values_U: Array) -> int:
    """How many units do not have the commonest value."""
    return len(values_U) - int(np.unique(values_U, return_counts=True)[1].max())


def decide(
    difference: Difference,
    p: float,
    hypervolume: tuple[float, float] | None = None,
    still: Sequence[str] = (),
    prompts: float = inf,
    family: int = 1,
) -> tuple[Word, str]:
    """What may be said of a difference in utility, and what forbids to say more (empty where nothing does).

    `p` is adjusted for the `family`; `hypervolume` is the interval of its difference, which may object; `still` names
    objectives that nothing moves.
    """
    low, high = difference.interval()
    if prompts < ENOUGH:
        return "not shown", f"{prompts:g} prompts are fewer than {ENOUGH}"
    if p >= LEVEL:
        if low == high:
            return "not shown", "the two are alike throughout"
        if low <= 0 <= high:
            return "not shown", "its interval holds 0"
        return "not shown", f"it does not stand among {family} comparisons at once"
    if still:
        return "not shown", f"nothing moves {' and '.join(still)} beyond the noise"
    if hypervolume and (high < 0 < hypervolume[0] or hypervolume[1] < 0 < low):
        return "not shown", OPPOSED
    return ("above", "") if low > 0 else ("below", "")
