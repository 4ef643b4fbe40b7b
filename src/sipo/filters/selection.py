"""Which features a judge sees: those that agree best with labels it was not fitted on, of equal ones the fewest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from sipo.filters.bradley_terry import BradleyTerry, LabelledPairs, fit_utilities, right_of, standard
from sipo.filters.contest import Array

LEVEL = 0.05
"""The chance that one of the sets that are tried for an objective is said to beat chance where none does."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """How judges are fitted."""

    ridge: float
    reduced: Mapping[str, int]
    """Features of which a judge sees principal components, and how many."""
    fold_P: Array
    """Of each pair; pairs of a prompt are in one."""
    prompt_P: Array
    """Which prompt a pair is of, as a number."""


@dataclass(frozen=True)
class Trial:
    """A set of features, and how it did on pairs that its judge was not fitted on."""

    features: Names
    numbers: int
    """That a judge sees of a response, after reduction."""
    accuracy: float
    """Share of the labels that it agrees with; an even call counts half. NaN without any."""
    error: float
    """Its standard error, over prompts."""
    by_chance: float
    """The accuracy that chance reaches in one of twenty cases, by the best of as many sets as were tried."""

    @property
    def beats_chance(self) -> bool:
        return self.accuracy > self.by_chance


def held_out(pairs: LabelledPairs, names: Names, fit: Fit) -> Array:
    """[P, N]: as `right_of`, for each fold by a judge fitted on the others; components are found there, too."""
    seen = pairs.seeing(names)
    right = np.full(pairs.signs_P_N.shape, np.nan)
    for fold in np.unique(fit.fold_P):
        inside = fit.fold_P == fold
        judge = fit_utilities(seen.of(~inside), names, fit.ridge, fit.reduced)
        right[inside] = right_of(judge, seen.of(inside))
    return right


def tried(pairs: LabelledPairs, sets: Sequence[Names], fit: Fit) -> list[list[Trial]]:
    """For each objective, the sets in order."""
    rights = [held_out(pairs, names, fit) for names in sets]
    return [
        [_trial(pairs, names, right[:, i], fit, len(sets)) for names, right in zip(sets, rights, strict=True)]
        for i in range(pairs.signs_P_N.shape[1])
    ]


def take(trials: Sequence[Trial]) -> Trial:
    """The one-standard-error rule: of those within a standard error of the best, that of the fewest numbers, and of
    equally few the most accurate.
    """
    best = max(trials, key=lambda each: each.accuracy)
    near = [each for each in trials if not each.accuracy < best.accuracy - best.error]
    return min(near, key=lambda each: (each.numbers, -each.accuracy))


def fit_taken(pairs: LabelledPairs, taken: Sequence[Names], fit: Fit) -> BradleyTerry:
    """The judge of all pairs that sees for each objective the features taken for it."""
    seen = pairs.seeing([name for name in pairs.columns if any(name in names for names in taken)])
    weights = np.zeros((len(taken), seen.features_P_2_F.shape[2]))
    alone = [fit_utilities(seen.seeing(names).about(i), names, fit.ridge, fit.reduced) for i, names in enumerate(taken)]
    for i, (names, judge) in enumerate(zip(taken, alone, strict=True)):
        for name, place in seen.seeing(names).columns.items():
            weights[i, seen.columns[name]] = judge.weights_N_F[0, place]
    return BradleyTerry(tuple(seen.columns), *standard(seen), weights)


def _trial(pairs: LabelledPairs, names: Names, right_P: Array, fit: Fit, count: int) -> Trial:
    widths = {name: place.stop - place.start for name, place in pairs.columns.items()}
    numbers = sum(min(widths[name], fit.reduced.get(name, widths[name])) for name in names)
    given = ~np.isnan(right_P)
    right, prompts = right_P[given], fit.prompt_P[given]
    if not len(right):
        return Trial(names, numbers, np.nan, np.nan, np.nan)
    accuracy = float(right.mean())
    by_chance = 0.5 + NormalDist().inv_cdf(1 - LEVEL / count) * _error(right - 0.5, prompts)
    return Trial(names, numbers, accuracy, _error(right - accuracy, prompts), by_chance)


def _error(apart_P: Array, prompts_P: Array) -> float:
    """Of the mean of numbers with a mean of 0, those of one prompt taken together."""
    _, which = np.unique(prompts_P, return_inverse=True)
    return float(np.sqrt((np.bincount(which, weights=apart_P) ** 2).sum()) / len(apart_P))
