"""What was measured with its 95 % interval: over seeds, or within one; and what follows from it for a statement."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from sipo.pareto.bootstrap import Array, Resamples, percentile_interval, resampled_means
from sipo.pareto.seeds import t_interval
from sipo.pareto.verdicts import LEVEL, OPPOSED, Difference, Word, mean_difference
from sipo.studies.study import Outcome

BOOTSTRAP = 1000
"""Resamples of what one seed measured."""

Interval = tuple[float, float, float]
"""Mean, low end, high end."""


def over_seeds(values_S: Sequence[float], draws_T: ArrayLike | None = None) -> Interval:
    """Student's t interval over seeds. Of one seed, the interval of its bootstrap `draws`, or its value alone."""
    if len(values_S) > 1:
        return t_interval(values_S)
    (value,) = values_S
    return (value, value, value) if draws_T is None else (value, *percentile_interval(np.asarray(draws_T)))


def mean_over_seeds(values: Sequence[Array]) -> Interval:
    """Of the mean of each seed's values [P], the seed being the unit; of one seed, the values are."""
    draws = resampled_means(values[0][None, :, None], Resamples(len(values[0]), BOOTSTRAP, 0))[:, 0, 0]
    return over_seeds([float(each.mean()) for each in values], draws)


def difference_of_means(values: Sequence[Array]) -> Difference:
    """The same as a difference to be tested: of each seed's paired differences [P]."""
    return mean_difference(np.array([each.mean() for each in values]) if len(values) > 1 else values[0])


def outcome(word: Word, because: str = "") -> Outcome:
    """Of the statement that the first is above the second."""
    if because == OPPOSED:
        return "depends on the measure"
    return {"above": "holds", "below": "the reverse holds", "not shown": "not shown"}[word]  # type: ignore[return-value]


def shown(interval: Interval, form: str = ".3f") -> str:
    mean, low, high = (format(each, form) for each in interval)
    return f"{mean} [{low}, {high}]"


def tested(difference: Difference, p: float, family: int) -> str:
    """A difference with its interval, its p-value among all statements, and what could have been seen among them."""
    seen = difference.detectable(family)
    least = f", could be seen from {seen:.2g}" if seen and p >= LEVEL else ""
    return f"{shown((difference.value, *difference.interval()), '+.3f')}, p {p:.2g}{least}"
