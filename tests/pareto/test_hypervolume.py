"""Hypervolume of many objectives is sampled: near the exact volume, as near as it says, and alike for like fronts."""

import moocore
import numpy as np
import pytest

from sipo.pareto.compare import compare
from sipo.pareto.hypervolume import EXACT, hypervolume, hypervolumes, standard_error

MANY = EXACT + 1
UNIT = {f"o{i}": i != 2 for i in range(MANY)}
MAXIMISE = list(UNIT.values())
SIGN = np.where(MAXIMISE, 1.0, -1.0)


def front(seed: int, points: int, n: int = MANY, noise: float = 0.1) -> np.ndarray:
    """Means at weights drawn evenly, each objective the better the more it counts."""
    draw = np.random.default_rng(seed)
    return np.sqrt(draw.dirichlet(np.ones(n), points)) + noise * draw.normal(size=(points, n))


def exact(points: np.ndarray, reference: np.ndarray) -> float:
    return moocore.hypervolume(points, ref=reference, maximise=True)


def test_it_is_as_near_to_the_exact_volume_as_its_standard_error_says() -> None:
    errors, shares = [], []
    for seed in range(60):
        points = front(seed, points=1 + seed % 20, noise=0.05 * (seed % 5))
        reference = np.median(points, axis=0) - 0.4  # some points cover nothing
        truth = exact(points, reference)
        estimates = hypervolumes((points * SIGN)[None], reference * SIGN, MAXIMISE)[0]
        assert estimates.mean() == pytest.approx(truth, rel=0.08), seed
        if seed % 20:  # a single point has no error
            errors.append((estimates.mean() - truth) / standard_error(estimates))
            shares.append(standard_error(estimates) / truth)
    assert max(shares) < 0.03
    assert np.mean(np.square(errors)) < 2
    assert np.mean(np.abs(errors) < 2.5) > 0.9


def test_one_point_is_a_box_whatever_its_unit() -> None:
    reference, point = np.linspace(-1e6, 3e-9, MANY), np.geomspace(1e-9, 1e6, MANY)
    assert hypervolume(((reference + point) * SIGN)[None], reference * SIGN, MAXIMISE) == pytest.approx(
        np.prod(reference + point - reference), rel=1e-5
    )


@pytest.mark.parametrize("points", [np.zeros((3, MANY)), -np.ones((1, MANY)), np.eye(MANY)])
def test_points_that_are_no_better_than_the_reference_cover_nothing(points: np.ndarray) -> None:
    assert hypervolume(points, np.zeros(MANY), [True] * MANY) == 0


def test_a_point_that_covers_nothing_or_stands_there_twice_changes_nothing() -> None:
    points, reference = front(0, 9), np.zeros(MANY)
    alone = hypervolume(points, reference, [True] * MANY)
    with_nothing = np.concatenate([points, -np.ones((2, MANY)), np.eye(MANY)])
    assert hypervolume(with_nothing, reference, [True] * MANY) == pytest.approx(alone, rel=1e-5)
    assert hypervolume(np.repeat(points, 2, axis=0), reference, [True] * MANY) == pytest.approx(alone, rel=1e-5)


def test_units_of_the_objectives_are_those_of_the_volume() -> None:
    points, reference, units = front(1, 12), np.zeros(MANY), np.geomspace(1e-3, 1e4, MANY)
    alone = hypervolume(points, reference, [True] * MANY)
    assert hypervolume(points * units, reference, [True] * MANY) == pytest.approx(alone * units.prod(), rel=1e-4)


def test_many_fronts_are_each_as_they_are_alone() -> None:
    fronts = np.stack([front(seed, 21) for seed in range(70)])  # more than are worked on at one time
    together = hypervolumes(fronts, np.zeros(MANY), [True] * MANY)
    alone = [hypervolumes(each[None], np.zeros(MANY), [True] * MANY)[0] for each in fronts]
    assert together == pytest.approx(np.stack(alone), rel=1e-6)


def test_differences_of_like_fronts_are_nearer_than_the_fronts() -> None:
    base = front(2, 12, noise=0)
    reference = np.full(MANY, -0.2)
    values, truths = [], []
    for seed in range(20):
        points = base + 0.01 * np.random.default_rng(seed).normal(size=base.shape)
        values.append(hypervolume(points, reference, [True] * MANY))
        truths.append(exact(points, reference))
    off = np.array(values) - truths
    assert off.std() < 0.005 * np.mean(truths)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_up_to_five_objectives_it_is_exact(n: int) -> None:
    fronts = np.stack([front(seed, 8, n) for seed in range(5)])
    found = hypervolumes(fronts, np.zeros(n), [True] * n)
    assert found[:, 0].tolist() == [exact(each, np.zeros(n)) for each in fronts]
    assert found.shape == (5, 1) and standard_error(found[0]) == 0


def test_what_is_sampled_counts_in_the_interval() -> None:
    weights = np.eye(MANY)
    rewards = {name: front(seed, MANY)[:, None].repeat(40, axis=1) for seed, name in enumerate(("sipo", "mod"))}
    found = compare(rewards, weights, UNIT, times=20)
    each, difference = found["methods"]["mod"], found["differences"]["sipo - mod"]
    for one in (each, difference):  # no prompt differs from another, so nothing else is uncertain
        low, high = one["hypervolume_interval"]
        assert high - low == pytest.approx(2 * 1.96 * one["hypervolume_error"], rel=1e-2)
    few = compare(
        {name: mine[..., :EXACT] for name, mine in rewards.items()},
        weights[:, :EXACT],
        dict(list(UNIT.items())[:EXACT]),
        times=20,
    )
    assert "hypervolume_error" not in few["methods"]["mod"]
