"""How far the weights steer, and what is left of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sipo.pareto.bootstrap import Array, Resamples, resampled_means
from sipo.pareto.compare import compare
from sipo.pareto.control import kept, least_kept, ranges, rank_agreement, start_of
from sipo.report.fronts import in_short
from sipo.report.verdict import narrowed, verdict
from sipo.weights import simplex_lattice

WEIGHTS = np.array(simplex_lattice(2, 4))
DIRECTIONS = {"detail": True, "words": False}


@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_a_front_that_is_linear_in_the_weights_has_its_own_slopes(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = np.array(simplex_lattice(n, 3))
    slope, start = generator.normal(size=(2, n))
    maximise = [bool(each) for each in generator.integers(0, 2, size=n)]
    points = start + weights * slope
    signs = np.where(maximise, 1, -1)
    assert ranges(points, weights, maximise) == pytest.approx(slope * signs)
    assert ranges(np.stack([points, points + 1]), weights, maximise)[1] == pytest.approx(slope * signs)
    assert rank_agreement(points, weights, maximise) == pytest.approx(np.sign(slope * signs))
    assert ranges(points[:1], weights, maximise) == pytest.approx(0), "one point serves every weight"


def test_noise_does_not_widen_a_range_and_kendall_is_scipy_s() -> None:
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(4000, len(WEIGHTS), 2))
    assert abs(ranges(noise, WEIGHTS, [True, True]).mean()) < 0.1 < np.ptp(noise, axis=1).mean()
    points = np.round(noise[0], 0)  # with ties
    expected = [kendalltau(WEIGHTS[:, n], sign * points[:, n]).statistic for n, sign in ((0, 1), (1, -1))]
    assert rank_agreement(points, WEIGHTS, [True, False]) == pytest.approx(expected)
    assert np.isnan(rank_agreement(points * 0, WEIGHTS, [True, False])).all()


def judged(keeps: float, noise: float = 0.3) -> dict[str, Array]:
    """mod's front, and sipo's which is better and keeps a share of its ranges."""
    generator = np.random.default_rng(2)
    front = np.stack([WEIGHTS[:, 0], 3 - 2 * WEIGHTS[:, 1]], axis=1)[:, None]
    noisy = lambda points: points + noise * generator.normal(size=(len(points), 60, 2))  # noqa: E731
    middle = front.mean(axis=0)
    return {"base": noisy(0 * front), "mod": noisy(front), "sipo": noisy(middle + keeps * (front - middle))}


@pytest.mark.parametrize(("keeps", "narrow"), [(0.1, ["detail", "words"]), (0.9, []), (-0.5, ["detail", "words"])])
def test_a_front_that_shrank_is_told_of_beside_its_hypervolume(keeps: float, narrow: list[str]) -> None:
    found = compare(judged(keeps), WEIGHTS, DIRECTIONS, unsteered=["base"], times=200)
    sipo, mod = found["methods"]["sipo"], found["methods"]["mod"]
    assert found["start"] == "mod" and mod["kept"] == {"detail": 1, "words": 1} and not mod["narrow"]
    assert sipo["narrow"] == narrow and found["methods"]["base"]["kept"] == {"detail": None, "words": None}
    for name, share in sipo["kept"].items():
        low, high = sipo["kept_interval"][name]
        assert low < share < high and share == pytest.approx(keeps, abs=0.2)
    assert sipo["control"]["detail"] == pytest.approx(1 if keeps > 0.5 else np.sign(keeps), abs=1)
    assert bool(narrowed({**found})) == bool(narrow) and ("has shrunk" in verdict(found)) == bool(narrow)
    _, _, rows = in_short(found["methods"])
    (said,) = (row[-1] for row in rows if row[0] == "sipo")
    assert said.endswith(", shrunk") == bool(narrow)
    least = least_kept(sipo)
    assert least is not None and said.startswith(f"{least[1]:.0%} of {least[0]}")


def test_nothing_is_said_of_a_range_that_the_start_has_not() -> None:
    rewards = judged(0.1)
    rewards["mod"][..., 1] = np.random.default_rng(3).normal(size=rewards["mod"].shape[:2])
    sipo = compare(rewards, WEIGHTS, DIRECTIONS, times=200)["methods"]["sipo"]
    assert sipo["kept"]["words"] is None and sipo["narrow"] == ["detail"]
    assert start_of(["lw", "soups"]) == "soups" and start_of(["lw"]) is None


def test_a_resample_in_which_the_start_stands_still_has_no_share() -> None:
    """With rewards that hardly vary, some of them do."""
    start_T = np.array([[0.0]] + 99 * [[2.0]])
    found = kept(np.array([1.0]), np.array([2.0]), np.ones((100, 1)), start_T, ["detail"])
    assert found["kept"] == {"detail": 0.5} and found["kept_interval"] == {"detail": pytest.approx((0.5, 0.5))}


def test_what_only_noise_moves_seldom_shrinks() -> None:
    """Of fifteen statements at once, too: five objectives, and three methods that are held against the start."""
    weights, names = np.vstack([np.eye(5), np.full((1, 5), 0.2)]), [f"o{n}" for n in range(5)]
    shrunk = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        draws = Resamples(60, 600, trial)
        moved = []
        for _ in range(4):
            rewards = rng.normal(size=(6, 60, 5))
            versions = rewards.mean(axis=1), resampled_means(rewards, draws)
            moved.append([ranges(each, weights, [True] * 5) for each in versions])
        (start, start_T), *others = moved
        shrunk += any(kept(mine, start, mine_T, start_T, names, 15)["narrow"] for mine, mine_T in others)
    assert shrunk <= 5
