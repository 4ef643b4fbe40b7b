"""When a difference may be called one: paired t tests, Holm over all that is stated at once, and what forbids it.

The unit U is what was drawn anew: the prompt within a run, the seed of training in a study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log1p, pi, sqrt
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from sipo.pareto.bootstrap import Array

LEVEL = 0.05
"""Share of the families of statements that may hold a false one, were nothing different."""
POWER = 0.8
ENOUGH = 30
"""Prompts below which no verdict is given, and units below which no skewness is estimated."""
EVENTS = 5
"""Units that must differ from the commonest value for a t test to be trusted, as for a binomial share."""
ROUNDING = 1e-12
"""Of the largest value: what is smaller is the rounding of sums, and no difference."""

OPPOSED = "hypervolume says the opposite"
SKEWED = "its differences are too skewed to tell"

Word = Literal["above", "below", "not shown"]


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences with its standard error, in the values' unit."""

    value: float
    error: float
    freedom: float
    """Degrees of freedom: units less one, or an estimate of as much; 0 where nothing can be said."""
    skew: float = 0.0
    """Skewness of the units' differences."""

    @property
    def p(self) -> float:
        """Two-sided, of Student's t test against 0.

        Skewness makes t large on the side of the short tail, where it is raised by the first term of t's Edgeworth
        expansion (Hall 1992, section 2.6). It is never lowered on the other.
        """
        if self.freedom < 1 or self.value == 0:
            return 1.0
        if not self.error:
            return 0.0
        t, units = abs(self.value) / self.error, self.freedom + 1
        against = max(0.0, -self.skew if self.value > 0 else self.skew)
        tail = float(stdtr(self.freedom, -t)) + against * (2 * t**2 + 1) * _density(t, self.freedom) / (6 * sqrt(units))
        return min(1.0, 2 * tail)

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error if self.freedom else 0.0
        return self.value - half, self.value + half

    def detectable(self, family: int = 1) -> float | None:
        """The true difference that the test finds with a power of 80 % among `family` of them, whatever the others
        find (Bonferroni's bound, Holm's first step); None for one unit.
        """
        if self.freedom < 1:
            return None
        critical = stdtrit(self.freedom, 1 - LEVEL / (2 * family))
        return float(critical + stdtrit(self.freedom, POWER)) * self.error


def mean_difference(values_U: Array, largest: float = 0.0) -> Difference:
    """Of paired differences, one a unit; `largest` is the size of the numbers that they were computed from."""
    values_U = np.asarray(values_U, dtype=float)
    units = len(values_U)
    value = float(values_U.mean())
    error = float(values_U.std(ddof=1)) / sqrt(units) if units > 1 else 0.0
    rounding = ROUNDING * max(largest, float(np.abs(values_U).max()))
    value, error = (each if abs(each) > rounding else 0.0 for each in (value, error))
    return Difference(value, error, units - 1, _skewness(values_U) if error and units >= ENOUGH else 0.0)


def _skewness(values_U: Array) -> float:
    """Adjusted Fisher-Pearson coefficient: positive where the long tail is upward."""
    units, centred_U = len(values_U), values_U - values_U.mean()
    third = float((centred_U**3).mean()) / float((centred_U**2).mean()) ** 1.5
    return third * sqrt(units * (units - 1)) / (units - 2)


def _density(t: float, freedom: float) -> float:
    """Of Student's t."""
    scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2)
    return exp(scale - (freedom + 1) / 2 * log1p(t**2 / freedom)) / sqrt(freedom * pi)


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

    Three t tests with Bonferroni's bound. That of slopes which are nearly the same in all units, and that of a change
    where a method nearly is, is trusted only where it is larger than a few units, fallen out otherwise, could make up.
    """
    largest = float(max(np.abs(a_M_U_N).max(), np.abs(b_M_U_N).max()))
    found = []
    for n in range(weights_M_N.shape[1]):
        share_M = weights_M_N[:, n] - weights_M_N[:, n].mean()
        slopes = [share_M @ (each[..., n] - each[:1, :, n]) for each in (a_M_U_N, b_M_U_N) if len(each) > 1]
        change = a_M_U_N[..., n].mean(axis=0) - b_M_U_N[..., n].mean(axis=0)
        few = _made_up(a_M_U_N[..., n], b_M_U_N[..., n])
        bounds = [few * float(np.abs(share_M).sum()) if nearly_constant(each) else 0.0 for each in slopes]
        bounds.append(few if any(nearly_constant(each[..., n].mean(axis=0)) for each in (a_M_U_N, b_M_U_N)) else 0.0)
        tests = [
            mean_difference(each, largest).p
            for each, bound in zip((*slopes, change), bounds, strict=True)
            if abs(float(each.mean())) >= bound
        ]
        found.append(min(tests, default=1.0) * len(bounds) < LEVEL)
    return found


def undecided(a_M_U_N: Array, b_M_U_N: Array, weights_M_N: Array, difference: float) -> list[bool]:
    """Of each objective, whether a few units could make up a difference in utility: a method has nearly the same value
    in all of them, as where something rare is counted, and its t test then takes the absence of chance for certainty.
    """
    found = []
    for n, share in enumerate(weights_M_N.mean(axis=0)):
        constant = any(nearly_constant(each[..., n].mean(axis=0)) for each in (a_M_U_N, b_M_U_N))
        found.append(constant and abs(difference) < share * _made_up(a_M_U_N[..., n], b_M_U_N[..., n]))
    return found


def nearly_constant(values_U: Array) -> bool:
    """Whether fewer than a few units differ from the commonest value."""
    departing = len(values_U) - int(np.unique(values_U, return_counts=True)[1].max())
    return departing < min(EVENTS, len(values_U) - 1)


def _made_up(a_M_U: Array, b_M_U: Array) -> float:
    """What a few units at the other end of a point's range would change in its mean."""
    return EVENTS * max(float(np.ptp(each, axis=1).max()) for each in (a_M_U, b_M_U)) / a_M_U.shape[1]


def decide(
    difference: Difference,
    p: float,
    hypervolume: tuple[float, float] | None = None,
    still: Sequence[str] = (),
    rare: Sequence[str] = (),
    prompts: float = inf,
    family: int = 1,
) -> tuple[Word, str]:
    """What may be said of a difference in utility, and what forbids to say more (empty where nothing does).

    `p` is adjusted for the `family`; `hypervolume` is the interval of its difference, which may object; `still` names
    objectives that nothing moves, `rare` those in which a few prompts could make the difference up.
    """
    low, high = difference.interval()
    if prompts < ENOUGH:
        return "not shown", f"{prompts:g} prompt{' is' if prompts == 1 else 's are'} fewer than {ENOUGH}"
    if p >= LEVEL:
        if low == high:
            return "not shown", "the two are alike throughout"
        if low <= 0 <= high:
            return "not shown", "its interval holds 0"
        if difference.p >= LEVEL:
            return "not shown", SKEWED
        return "not shown", f"it does not stand among {family} comparisons at once"
    if still:
        return "not shown", f"nothing moves {' and '.join(still)} beyond the noise"
    if rare:
        return "not shown", f"{EVENTS} prompts, fallen out otherwise in {' and '.join(rare)}, could make it up"
    if hypervolume and (high < 0 < hypervolume[0] or hypervolume[1] < 0 < low):
        return "not shown", OPPOSED
    return ("above", "") if low > 0 else ("below", "")
