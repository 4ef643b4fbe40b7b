"""The lattice of preference weights, and what is refused as one."""

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipo.cli.arguments import parse_weights
from sipo.commands import evenly, ratios
from sipo.errors import SipoError
from sipo.settings import Weights
from sipo.weights import as_weight, between, corners, grid, is_corner, lattice_size, simplex_lattice, spread_lattice

NAMES = ("helpful", "harmless", "honest")


def test_two_objectives_have_the_paper_s_grid() -> None:
    lattice = simplex_lattice(2, 5)
    assert lattice == [(1.0, 0.0), (0.8, 0.2), (0.6, 0.4), (0.4, 0.6), (0.2, 0.8), (0.0, 1.0)]
    assert [w for w in lattice if not is_corner(w)] == lattice[1:-1], "sampling takes the middle four"


@given(st.integers(2, 5), st.integers(1, 7))
def test_the_lattice_is_whole(n: int, divisions: int) -> None:
    lattice = simplex_lattice(n, divisions)
    assert len(lattice) == len(set(lattice)) == comb(divisions + n - 1, n - 1)
    for weight in lattice:
        assert len(weight) == n and min(weight) >= 0 and sum(weight) == pytest.approx(1, abs=1e-12)
        assert all(share * divisions == pytest.approx(round(share * divisions), abs=1e-9) for share in weight)
    assert set(corners(n)) <= set(lattice)
    assert [w for w in lattice if is_corner(w)] == corners(n)
    assert lattice == sorted(lattice, reverse=True)


@pytest.mark.parametrize(("n", "divisions"), [(2, 5), (2, 20), (3, 5), (3, 4), (4, 3)])
def test_a_lattice_within_the_usual_bound_is_taken_whole(n: int, divisions: int) -> None:
    names = [f"o{i}" for i in range(n)]
    assert grid(Weights(divisions=divisions), names) == simplex_lattice(n, divisions)


@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 30))
def test_a_part_has_the_corners_and_lies_within_larger_ones(n: int, divisions: int, more: int) -> None:
    lattice = simplex_lattice(n, divisions)
    part = spread_lattice(n, divisions, n + more)
    assert len(part) == min(n + more, lattice_size(n, divisions)) == len(set(part))
    assert list(part) == [weight for weight in lattice if weight in part], "in the lattice's order"
    assert set(corners(n)) <= set(part)
    assert set(part) <= set(spread_lattice(n, divisions, n + more + 1))


@pytest.mark.parametrize(("n", "divisions"), [(3, 3), (4, 4), (5, 5), (3, 6), (6, 6)])
def test_after_the_corners_comes_the_middle(n: int, divisions: int) -> None:
    (middle,) = between(spread_lattice(n, divisions, n + 1))
    assert middle == pytest.approx((1 / n,) * n)


@pytest.mark.parametrize(("n", "divisions", "count"), [(4, 5, 21), (5, 5, 21), (5, 4, 12), (6, 5, 30), (8, 4, 21)])
def test_a_part_is_spread_as_well_as_the_greedy_choice_can(n: int, divisions: int, count: int) -> None:
    """No lattice point is farther from the part than its own points are from each other, by the factor that evenness
    costs (3/4); chance does worse. And no objective has much more than its share.
    """
    lattice, part = np.array(simplex_lattice(n, divisions)), np.array(spread_lattice(n, divisions, count))

    def reach(some: np.ndarray) -> float:
        return float(np.linalg.norm(lattice[:, None] - some, axis=-1).min(axis=1).max())

    apart = np.linalg.norm(part[:, None] - part, axis=-1) + 9 * np.eye(count)
    assert 0.75 * reach(part) <= apart.min() + 1e-9
    generator = np.random.default_rng(0)
    drawn = [reach(lattice[generator.permutation(len(lattice))[:count]]) for _ in range(40)]
    assert reach(part) < np.median(drawn)
    assert np.allclose(part.mean(axis=0) * n, 1, atol=0.15)


def test_another_order_of_the_objectives_has_as_good_a_part() -> None:
    """Where all that a permutation makes of a point is taken with it, as here."""
    for n, divisions, count in [(5, 5, 6), (4, 4, 11)]:
        part = set(spread_lattice(n, divisions, count))
        assert {tuple(weight[at] for at in order) for weight in part for order in permutations(range(n))} == part


@given(st.integers(2, 4), st.integers(1, 6))
def test_every_lattice_point_is_a_weight(n: int, divisions: int) -> None:
    names = [f"o{i}" for i in range(n)]
    for weight in simplex_lattice(n, divisions):
        assert as_weight(dict(zip(names, weight, strict=True)), names, "here") == weight


def test_objectives_left_out_have_no_share() -> None:
    assert as_weight({"honest": 0.25, "helpful": 0.75}, NAMES, "here") == (0.75, 0.0, 0.25)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (
            {"helpful": 0.5, "harmles": 0.5},
            "here: `harmles` is no objective; they are helpful, harmless, honest",
        ),
        ({"helpful": 0.5, "harmless": 0.4}, "here: the shares sum to 0.9, not to 1; `honest` has none"),
        ({"honest": 0.3}, "here: the shares sum to 0.3, not to 1; `helpful` and `harmless` have none"),
        ({"helpful": 1.5, "harmless": -0.5}, "here: helpful=1.5 is off the simplex"),
        ({"helpful": -0.5, "harmless": 1.5}, "here: helpful=-0.5 is off the simplex"),
        ({"helpful": float("nan"), "harmless": 1.0}, "here: helpful=nan is off the simplex"),
        ({}, "here: the shares sum to 0, not to 1"),
    ],
)
def test_what_is_off_the_simplex_is_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(SipoError) as error:
        as_weight(shares, NAMES, "here")
    assert str(error.value).startswith(message)


def test_a_run_s_grid_is_a_lattice_or_a_list() -> None:
    names = ["detail", "brevity"]
    assert grid(Weights(divisions=2), names) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert grid(Weights(grid=({"brevity": 0.25, "detail": 0.75}, {"detail": 1.0})), names) == [(0.75, 0.25), (1.0, 0.0)]
    with pytest.raises(SipoError, match=r"weights\.grid\[1\]: the shares sum to 0\.75"):
        grid(Weights(grid=({"detail": 1.0}, {"detail": 0.75})), names)
    with pytest.raises(SipoError, match=r"sample\.weights\.grid\[0\]: the shares sum to 0\.5"):
        grid(Weights(grid=({"detail": 0.5},)), names, "sample.weights")


@pytest.mark.parametrize("n", range(2, 13))
def test_even_shares_can_be_read_back(n: int) -> None:
    names = [f"o{i}" for i in range(n)]
    assert as_weight(parse_weights(ratios(evenly(names))), names, "here") == (1 / n,) * n
