"""Dominance as a set of laws, the paper's choice against a brute-force twin, and hypervolume against a staircase."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sipo.pareto.bootstrap import Resamples, percentile_interval, resampled_means
from sipo.pareto.dominance import choose, dominates, reasons
from sipo.pareto.hypervolume import hypervolume
from sipo.pareto.indicators import beyond, reference_below

Array = NDArray[np.float64]

# Few different values, so that ties are common.
rewards = st.integers(-2, 2).map(float)


@st.composite
def contests(draw: st.DrawFn) -> tuple[Array, Array]:
    judges = draw(st.integers(1, 4))
    candidates = draw(arrays(float, (draw(st.integers(1, 6)), judges), elements=rewards))
    originals = draw(arrays(float, (draw(st.integers(1, 3)), judges), elements=rewards))
    return candidates, originals


@given(contests())
def test_an_original_never_dominates(contest: tuple[Array, Array]) -> None:
    _, originals = contest
    assert not dominates(originals, originals).any()
    assert choose(originals, originals) is None


@given(contests())
def test_dominance_is_better_than_each_by_each(contest: tuple[Array, Array]) -> None:
    candidates, originals = contest
    for candidate, verdict in zip(candidates, dominates(candidates, originals), strict=True):
        assert verdict == all(
            mine > theirs for original in originals for mine, theirs in zip(candidate, original, strict=True)
        )


@given(contests(), st.data())
def test_the_order_of_judges_and_originals_is_no_matter(contest: tuple[Array, Array], data: st.DataObject) -> None:
    candidates, originals = contest
    judges = data.draw(st.permutations(range(candidates.shape[1])))
    order = data.draw(st.permutations(range(len(originals))))
    turned = candidates[:, judges], originals[order][:, judges]
    assert (dominates(*turned) == dominates(candidates, originals)).all()
    assert (choose(*turned) is None) == (choose(candidates, originals) is None)


@given(contests(), st.data())
def test_a_better_candidate_dominates_no_less(contest: tuple[Array, Array], data: st.DataObject) -> None:
    candidates, originals = contest
    raised = candidates + data.draw(arrays(float, candidates.shape, elements=st.sampled_from([0.0, 0.5, 3.0])))
    assert (dominates(raised, originals) >= dominates(candidates, originals)).all()
    lowered = originals - data.draw(arrays(float, originals.shape, elements=st.sampled_from([0.0, 0.5, 3.0])))
    assert (dominates(candidates, lowered) >= dominates(candidates, originals)).all()
    assert (dominates(candidates, originals) <= dominates(candidates, originals[:1])).all()


@given(contests())
def test_the_choice_is_the_best_mean_among_those_that_dominate(contest: tuple[Array, Array]) -> None:
    candidates, originals = contest
    best, best_mean = None, -np.inf
    for index, candidate in enumerate(candidates):
        better = all((candidate > original).all() for original in originals)
        if better and sum(candidate) / len(candidate) > best_mean + 1e-12:
            best, best_mean = index, sum(candidate) / len(candidate)
    chosen = choose(candidates, originals)
    assert (chosen is None) == (best is None)
    if chosen is not None:
        assert candidates[chosen].mean() == pytest.approx(best_mean)
        assert not any(np.array_equal(candidates[chosen], earlier) for earlier in candidates[:chosen]), (
            "the first of equals"
        )


@given(contests())
def test_reasons_are_empty_exactly_for_those_that_dominate(contest: tuple[Array, Array]) -> None:
    candidates, originals = contest
    judges = [f"judge{j}" for j in range(candidates.shape[1])]
    for candidate, verdict in zip(candidates, dominates(candidates, originals), strict=True):
        why = reasons(candidate, originals, judges)
        assert (not why) == verdict
        assert set(why) == {
            f"no better than response_{o} for judge{j}"
            for o in range(len(originals))
            for j in range(len(judges))
            if candidate[j] <= originals[o, j]
        }


margin = st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0])


@given(contests(), st.data())
def test_with_margins_a_candidate_may_be_worse_by_that_much_and_is_better_for_one(
    contest: tuple[Array, Array], data: st.DataObject
) -> None:
    candidates, originals = contest
    margins = data.draw(arrays(float, candidates.shape[1], elements=margin))
    for candidate, verdict in zip(candidates, dominates(candidates, originals, margins), strict=True):
        pairs = [list(zip(candidate, original, margins, strict=True)) for original in originals]
        no_worse = all(mine - theirs >= -m for pair in pairs for mine, theirs, m in pair)
        assert verdict == (no_worse and all(any(mine > theirs for mine, theirs, _ in pair) for pair in pairs))
        assert verdict == (not reasons(candidate, originals, [*map(str, margins)], margins))


@given(contests(), st.data())
def test_a_wider_margin_lets_no_fewer_pass_and_treats_judges_and_originals_alike(
    contest: tuple[Array, Array], data: st.DataObject
) -> None:
    candidates, originals = contest
    judges = candidates.shape[1]
    margins, more = (data.draw(arrays(float, judges, elements=margin)) for _ in range(2))
    narrow, wide = (dominates(candidates, originals, each) for each in (margins, margins + more))
    assert (wide >= narrow).all()
    assert (narrow >= dominates(candidates, originals)).all(), "the paper's gate is the narrowest"
    order, turned = data.draw(st.permutations(range(judges))), data.draw(st.permutations(range(len(originals))))
    assert (dominates(candidates[:, order], originals[turned][:, order], margins[order]) == narrow).all()
    assert not dominates(originals, originals, margins).any() or len(originals) > 1


@given(contests())
def test_with_a_margin_of_0_it_is_pareto_dominance(contest: tuple[Array, Array]) -> None:
    candidates, originals = contest
    expected = [all((c >= o).all() and (c > o).any() for o in originals) for c in candidates]
    assert dominates(candidates, originals, np.zeros(candidates.shape[1])).tolist() == expected


def test_nothing_is_better_than_nan() -> None:
    """A reward that could not be computed never makes a candidate Pareto-optimal."""
    candidates = np.array([[2.0, np.nan], [2.0, 2.0]])
    assert dominates(candidates, np.array([[1.0, 1.0]])).tolist() == [False, True]
    assert not dominates(candidates[1:], np.array([[1.0, np.nan]])).any()
    assert reasons(candidates[0], np.array([[1.0, 1.0]]), ["a", "b"]) == ["no better than response_0 for b"]
    assert dominates(candidates, np.array([[1.0, 1.0]]), np.ones(2)).tolist() == [False, True]
    assert reasons(candidates[0], np.array([[1.0, 1.0]]), ["a", "b"], np.ones(2)) == ["worse than response_0 for b"]


# Fronts

MAXIMISE = [True, True]


def staircase(points: Array, reference: Array) -> float:
    """Two objectives, larger is better: rectangles from right to left."""
    area, height = 0.0, reference[1]
    for x, y in sorted(map(tuple, points), reverse=True):
        if x > reference[0] and y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def test_a_staircase_by_hand() -> None:
    front = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    assert hypervolume(front, np.zeros(2), MAXIMISE) == 6.0
    assert hypervolume(-front, np.zeros(2), [False, False]) == 6.0
    assert hypervolume(front * [1, -1], np.zeros(2), [True, False]) == 6.0
    assert hypervolume(front, np.array([3.0, 3.0]), MAXIMISE) == 0.0
    assert hypervolume(np.array([[2.0, 3.0, 4.0]]), np.ones(3), [True] * 3) == 6.0


fronts_2d = arrays(float, st.tuples(st.integers(1, 7), st.just(2)), elements=st.floats(-5, 5, width=32))


@given(fronts_2d, st.tuples(st.booleans(), st.booleans()))
def test_hypervolume_is_the_staircase_in_every_direction(points: Array, maximise: tuple[bool, bool]) -> None:
    reference = np.array([-2.0, -1.0])
    sign = np.where(maximise, 1.0, -1.0)
    assert hypervolume(points * sign, reference * sign, maximise) == pytest.approx(
        staircase(points, reference), abs=1e-9
    )


@given(
    arrays(float, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-5, 5, width=32)),
    arrays(float, (1, 3), elements=st.floats(-5, 5, width=32)),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_another_point_never_takes_volume_away(points: Array, point: Array, maximise: list[bool]) -> None:
    reference = -6 * np.where(maximise, 1.0, -1.0)
    before = hypervolume(points, reference, maximise)
    after = hypervolume(np.concatenate([points, point]), reference, maximise)
    assert after >= before - 1e-9
    if np.where(maximise, points >= point, points <= point).all(axis=1).any():
        assert after == pytest.approx(before), "a point that another covers adds nothing"


@given(fronts_2d, st.tuples(st.booleans(), st.booleans()))
def test_the_reference_is_below_every_point(points: Array, maximise: tuple[bool, bool]) -> None:
    reference = reference_below(points, maximise)
    for objective, more in enumerate(maximise):
        below = points[:, objective] > reference[objective] if more else points[:, objective] < reference[objective]
        assert below.all()
    assert hypervolume(points, reference, maximise) > 0 or np.ptp(points, axis=0).min() < 1e-6


def test_beyond_the_reference_is_no_better_than_it() -> None:
    points = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 9.0]])
    outside = beyond(points, np.array([1.0, 9.0]), [True, False])
    assert outside.tolist() == [[True, False], [False, False], [False, True]]
    for inside, point in zip(~outside.any(axis=1), points, strict=True):
        assert (hypervolume(point[None], np.array([1.0, 9.0]), [True, False]) > 0) == inside


def test_the_reference_keeps_a_share_of_the_range() -> None:
    points = np.array([[0.0, 10.0], [2.0, 30.0]])
    assert reference_below(points, [True, False]).tolist() == [-0.1, 31.0]


def test_resamples_are_seeded_indices() -> None:
    three, again, four = (np.stack(list(Resamples(7, 50, seed))) for seed in (3, 3, 4))
    assert three.shape == (50, 7) and three.min() >= 0 and three.max() <= 6
    assert (three == again).all() and (three != four).any()


@pytest.mark.parametrize("numbers", [1, 20, 10**6])
def test_resampled_means_are_means_of_the_drawn_prompts(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are held at one time."""
    monkeypatch.setattr("sipo.pareto.bootstrap.NUMBERS", numbers)
    values = np.random.default_rng(0).normal(size=(3, 7, 2))
    draws = Resamples(7, 5, seed=1)
    expected = [values[:, draw].mean(axis=1) for draw in draws]
    assert np.allclose(resampled_means(values, draws), expected)


def test_intervals_cover() -> None:
    """In about 95 of 100 experiments the interval of a mean holds the true mean."""
    generator, covered, experiments = np.random.default_rng(0), 0, 400
    for seed in range(experiments):
        data = generator.normal(3.0, 2.0, size=60)
        low, high = percentile_interval(data[np.stack(list(Resamples(60, 400, seed)))].mean(axis=1))
        assert low < data.mean() < high
        covered += low <= 3.0 <= high
    assert 0.91 <= covered / experiments <= 0.98


def test_the_interval_is_central() -> None:
    values = np.arange(1001.0)
    assert percentile_interval(values) == pytest.approx((25.0, 975.0))
    assert percentile_interval(values, level=0.5) == pytest.approx((250.0, 750.0))
    assert percentile_interval(np.full(9, 2.0)) == (2.0, 2.0)
