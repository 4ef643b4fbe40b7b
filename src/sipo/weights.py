"""Preference weights: points on the simplex, one share for each objective."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Real

from sipo.errors import SipoError
from sipo.settings import Weights

Weight = tuple[float, ...]

ROUNDING = 1e-6
"""Weights are printed with six digits."""


def simplex_lattice(n: int, divisions: int) -> list[Weight]:
    """All weights over n objectives whose shares are multiples of 1 / divisions.

    There are C(divisions + n - 1, n - 1) of them, the first objective's share falling; n = 2 with five divisions
    is the paper's grid.
    """
    bars = combinations(range(divisions + n - 1), n - 1)
    counts = ([b - a - 1 for a, b in zip((-1, *cut), (*cut, divisions + n - 1), strict=True)] for cut in bars)
    return sorted((tuple(c / divisions for c in count) for count in counts), reverse=True)


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
        raise SipoError(f"{place}: the shares sum to {total:g}, not to 1")
    return tuple(float(shares.get(name, 0.0)) for name in objectives)


def grid(settings: Weights, objectives: Sequence[str]) -> list[Weight]:
    """The run's weights, in order. Raises SipoError for one off the simplex."""
    if settings.grid is None:
        return simplex_lattice(len(objectives), settings.divisions)
    return [as_weight(shares, objectives, f"weights.grid[{i}]") for i, shares in enumerate(settings.grid)]


def is_near(one: Weight, other: Weight) -> bool:
    """Are they the same but for rounding, as where one was printed and read?"""
    return all(abs(a - b) <= ROUNDING for a, b in zip(one, other, strict=True))


def is_corner(weight: Weight) -> bool:
    return max(weight) == 1.0


def corners(n: int) -> list[Weight]:
    return [tuple(float(i == j) for j in range(n)) for i in range(n)]
