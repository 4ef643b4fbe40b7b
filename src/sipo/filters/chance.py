"""How many rows a rule by strict dominance may be expected to keep, before anything is sampled.

A candidate counts if it beats both originals for each of N judges. The chance of that is worked out for rewards that
are drawn, and depends on what nobody knows before: how far the judges agree, how like each other candidates are, and by
how much what the policies write is ahead of the originals in their own eyes. So it is a range between two sets of
assumptions. Soups judge, to first order, by the policies' mean, and turn away little that all policies let pass.
"""

from typing import NamedTuple

import numpy as np


class Assumed(NamedTuple):
    """Of normal rewards that vary as much among originals as among candidates."""

    agree: float
    """Correlation of two judges' rewards of a response."""
    alike: float
    """Correlation of two candidates' rewards by a judge."""
    ahead: float
    """How far candidates' mean is above the originals', in standard deviations."""


LEAST, MOST = Assumed(0.0, 0.8, 0.0), Assumed(0.5, 0.0, 1.0)
"""Ends of the range, set so wide that it holds what runs kept (docs/configuration.md). Judges at odds with each other
keep fewer still, policies that were taught to rewrite well more.
"""
DRAWS, ENOUGH = 4000, 1000
"""Prompts that are drawn, and candidates beyond which more change little."""


def chance_of_one(judges: int, candidates: int, assumed: Assumed, seed: int = 0) -> float:
    """The probability that of so many candidates to a prompt at least one beats both originals for all N judges.

    Of one judge, and candidates that are neither alike nor ahead, it is C / (C + 2); of one candidate to judges that
    have nothing in common 3^-N.
    """
    generator = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        common = generator.normal(size=(DRAWS, 1))
        return np.sqrt(assumed.agree) * common + np.sqrt(1 - assumed.agree) * generator.normal(size=(DRAWS, judges))

    best, shared = np.maximum(drawn(), drawn()), drawn()
    found = np.zeros(DRAWS, dtype=bool)
    for _ in range(min(candidates, ENOUGH)):
        candidate = np.sqrt(assumed.alike) * shared + np.sqrt(1 - assumed.alike) * drawn() + assumed.ahead
        found |= (candidate > best).all(axis=1)
    return float(found.mean())


def share_kept(judges: int, samples: int, rewrites: int, margin: float = 0.0) -> tuple[float, float]:
    """The share of the rows that keep a response, from and to. At the least a rewrite counts as its sample again; a
    margin is at most as good as being ahead by it.
    """
    most = MOST._replace(ahead=MOST.ahead + margin)
    return chance_of_one(judges, max(samples, rewrites), LEAST), chance_of_one(judges, samples + rewrites, most)


def rows_kept(rows: int, least: float, most: float) -> tuple[int, int]:
    """How many of so many rows keep a response, from and to: below and above each are 2.5 % of runs at that end of the
    share, were rows independent. So of few rows none may be kept.
    """
    return _quantile(0.025, rows, least), _quantile(0.975, rows, most)


def _quantile(level: float, rows: int, share: float) -> int:
    """Of the binomial distribution."""
    from scipy.special import bdtr  # here, because a graph is drawn without it

    return int(np.searchsorted(bdtr(np.arange(rows + 1), rows, share), level))
