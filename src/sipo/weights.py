"""Preference weights: points on the simplex, one share for each objective."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from math import comb, floor
from numbers import Real

import numpy as np

from sipo.errors import SipoError
from sipo.settings import Weights
from sipo.words import listed

Weight = tuple[float, ...]

ROUNDING = 1e-6
"""Weights are printed with six digits."""


def simplex_lattice(n: int, divisions: int) -> list[Weight]:
    """All weights over n objectives whose shares are multiples of 1 / divisions.

    There are `lattice_size` of them, the first objective's share falling; n = 2 with five divisions is the paper's
    grid.
    """
    return [tuple(c / divisions for c in count) for count in _counts(n, divisions)]


def lattice_size(n: int, divisions: int) -> int:
    """C(divisions + n - 1, n - 1), which grows like divisions^(n - 1)."""
    return comb(divisions + n - 1, n - 1)


def _counts(n: int, divisions: int) -> list[tuple[int, ...]]:
    """The lattice in units of 1 / divisions."""
    bars = combinations(range(divisions + n - 1), n - 1)
    cuts = (((-1, *cut), (*cut, divisions + n - 1)) for cut in bars)
    return sorted((tuple(b - a - 1 for a, b in zip(*cut, strict=True)) for cut in cuts), reverse=True)


NEARLY = (9, 16)
"""Three quarters of a distance, squared, as a fraction: whole numbers compare alike on every machine."""


@cache
def spread_lattice(n: int, divisions: int, at_most: int) -> tuple[Weight, ...]:
    """At most so many points of the lattice, n or more, in its order: all of them, or a well-spread part.

    The corners come first. Then, one after the other, the point that is farthest from those taken already (Gonzalez
    1985), which after the corners is the middle or the lattice's nearest to it; of points that are nearly as far, three
    quarters, the one that evens out what the objectives have of all shares together. So a smaller part lies within any
    larger one.
    """
    points = np.array(_counts(n, divisions))
    taken = [int(at) for at in np.flatnonzero(points.max(axis=1) == divisions)]
    nearest = np.min([((points - points[at]) ** 2).sum(axis=1) for at in taken], axis=0)
    while len(taken) < min(at_most, len(points)):
        far = np.flatnonzero(nearest * NEARLY[1] >= nearest.max() * NEARLY[0])
        uneven = ((points[taken].sum(axis=0) + points[far]) ** 2).sum(axis=1)
        best = int(far[np.lexsort((far, -nearest[far], uneven))[0]])
        taken.append(best)
        nearest = np.minimum(nearest, ((points - points[best]) ** 2).sum(axis=1))
    return tuple(tuple((points[at] / divisions).tolist()) for at in sorted(taken))


def as_weight(shares: Mapping[str, float], objectives: Sequence[str], place: str) -> Weight:
    """The weight that a mapping names; objectives left out have none. Raises SipoError off the simplex."""
    for name, share in shares.items():
        if name not in objectives:
            raise SipoError(f"{place}: `{name}` is no objective; they are {', '.join(objectives)}")
        if not isinstance(share, Real):
            raise SipoError(f"{place}: {name} is {share!r}; give a number between 0 and 1")
        if not 0 <= share <= 1:
            raise SipoError(f"{place}: {name}={share} is off the simplex; shares lie between 0 and 1")
    total = sum(shares.values())
    if abs(total - 1) > ROUNDING:
        lacking = [f"`{name}`" for name in objectives if name not in shares]
        more = f"; {listed(lacking)} {'has' if len(lacking) == 1 else 'have'} none" if lacking else ""
        raise SipoError(f"{place}: the shares sum to {total:g}, not to 1{more}")
    return tuple(float(shares.get(name, 0.0)) for name in objectives)


def grid(settings: Weights, objectives: Sequence[str], place: str = "weights") -> list[Weight]:
    """The weights that a section names, in order; `place` is its own. Raises SipoError for one off the simplex."""
    if settings.grid is None:
        return list(spread_lattice(len(objectives), settings.divisions, settings.at_most))
    return [as_weight(shares, objectives, f"{place}.grid[{i}]") for i, shares in enumerate(settings.grid)]


def check_between(settings: Weights, objectives: Sequence[str], place: str, why: str) -> None:
    """Raise SipoError where no weight of the section at `place` lies between the objectives; `why` one is wanted."""
    if between(grid(settings, objectives, place)):
        return
    if settings.grid is not None:
        way = f"add one to {place}.grid"
    elif settings.divisions < 2:
        way = f"set {place}.divisions to 2 or more"
    else:
        way = f"raise {place}.at_most above {len(objectives)}"
    raise SipoError(f"{place}: none lies between the objectives, {why}; {way}")


def on_grid(weight: Weight, steps: int) -> Weight:
    """A nearest weight whose shares are multiples of 1 / steps: parts of a step go to the largest remainders, so that
    the sum stays 1. All zeros stay so.

    >>> on_grid((1 / 3, 2 / 3), 20)
    (0.35, 0.65)
    """
    if not any(weight):
        return weight
    whole = [floor(share * steps) for share in weight]
    order = sorted(range(len(weight)), key=lambda i: whole[i] - weight[i] * steps)
    for i in order[: steps - sum(whole)]:
        whole[i] += 1
    return tuple(count / steps for count in whole)


def is_near(one: Weight, other: Weight) -> bool:
    """Are they the same but for rounding, as where one was printed and read?"""
    return all(abs(a - b) <= ROUNDING for a, b in zip(one, other, strict=True))


def is_corner(weight: Weight) -> bool:
    return max(weight) == 1.0


def between(weights: Iterable[Weight]) -> list[Weight]:
    """Those that are no corner."""
    return [weight for weight in weights if not is_corner(weight)]


def without_share(weights: Sequence[Weight], objectives: Sequence[str]) -> list[str]:
    """The objectives that have a share of none of the weights."""
    return [name for i, name in enumerate(objectives) if not any(weight[i] for weight in weights)]


def corners(n: int) -> list[Weight]:
    return [tuple(float(i == j) for j in range(n)) for i in range(n)]
