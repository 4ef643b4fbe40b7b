"""Indicators against their definitions, fronts compared with paired resamples, and seeds as the unit."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sipo.config import Config
from sipo.errors import SipoError
from sipo.pareto.bootstrap import filled, known_prompts, percentile_interval
from sipo.pareto.compare import MEASURES, compare, pairs
from sipo.pareto.gains import gains
from sipo.pareto.hypervolume import hypervolume
from sipo.pareto.indicators import (
    additive_epsilon,
    dominated_share,
    igd_plus,
    mean_utility,
    objective_ranges,
    reference_below,
    spacing,
    union_front,
)
from sipo.pareto.seeds import attainment, staircase, t_interval
from sipo.weights import simplex_lattice

Array = NDArray[np.float64]

# Few different values, so that ties and equal points are common.
values = st.integers(-3, 3).map(float)


@st.composite
def two_fronts(draw: st.DrawFn) -> tuple[Array, Array, list[bool]]:
    n = draw(st.integers(2, 4))
    a, b = (draw(arrays(float, (draw(st.integers(1, 6)), n), elements=values)) for _ in range(2))
    return a, b, draw(st.lists(st.booleans(), min_size=n, max_size=n))


def larger(points: Array, maximise: list[bool]) -> Array:
    return points * np.where(maximise, 1.0, -1.0)


@given(two_fronts())
def test_indicators_follow_their_definitions(fronts: tuple[Array, Array, list[bool]]) -> None:
    points, target, maximise = fronts
    mine, theirs = larger(points, maximise), larger(target, maximise)
    epsilon = max(min(max(t - p for t, p in zip(b, a, strict=True)) for a in mine) for b in theirs)
    assert additive_epsilon(points, target, maximise) == pytest.approx(epsilon)
    igd = np.mean([min(np.linalg.norm(np.maximum(b - a, 0)) for a in mine) for b in theirs])
    assert igd_plus(points, target, maximise) == pytest.approx(igd)
    beaten = [any((b >= a).all() and (b > a).any() for b in theirs) for a in mine]
    assert dominated_share(points, target, maximise) == pytest.approx(np.mean(beaten))
    assert dominated_share(points, target[:0], maximise) == 0
    best = {tuple(a) for a in mine if not any((b >= a).all() and (b > a).any() for b in mine)}
    assert {tuple(a) for a in larger(union_front(points, maximise), maximise)} == best


@given(two_fronts(), st.randoms(use_true_random=False))
def test_order_repetition_and_direction_do_not_matter(fronts: tuple[Array, Array, list[bool]], random) -> None:
    points, target, maximise = fronts
    order = random.sample(range(len(points)), len(points))
    flipped = [not each for each in maximise]
    corner = larger(np.full(len(maximise), -4.0), maximise)
    for indicator, other in ((additive_epsilon, target), (igd_plus, target), (hypervolume, corner)):
        value = indicator(points, other, maximise)
        assert indicator(np.concatenate([points, points])[order], other, maximise) == pytest.approx(value)
        assert indicator(-points, -other, flipped) == pytest.approx(value)
    assert dominated_share(-points, -target, flipped) == dominated_share(points, target, maximise)
    weights = np.full(points.shape, 1 / points.shape[1])
    assert mean_utility(-points, weights, flipped) == pytest.approx(mean_utility(points, weights, maximise))


@given(two_fronts())
def test_nothing_is_missing_from_a_front_to_itself(fronts: tuple[Array, Array, list[bool]]) -> None:
    points, target, maximise = fronts
    best = union_front(np.concatenate([points, target]), maximise)
    assert additive_epsilon(points, points, maximise) == 0 == igd_plus(points, points, maximise)
    assert additive_epsilon(points, best, maximise) >= 0, "no front is ahead of the best of all"
    more = np.concatenate([points, target])
    assert additive_epsilon(more, best, maximise) == 0 == igd_plus(more, best, maximise)
    assert dominated_share(best, more, maximise) == 0


@given(arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-1, 1, width=16)))
def test_hypervolume_is_what_darts_find(points: Array) -> None:
    """Monte Carlo over the box; five standard errors wide."""
    maximise = [True, False, True]
    darts = np.random.default_rng(0).uniform(-1, 1, size=(4000, 3))
    hit = (larger(darts, maximise)[:, None] <= larger(points, maximise)[None]).all(axis=-1).any(axis=-1)
    share = hypervolume(points, larger(-np.ones(3), maximise), maximise) / 8
    assert abs(hit.mean() - share) <= 5 * np.sqrt(share * (1 - share) / len(darts)) + 1e-3


def test_spread_by_hand() -> None:
    line = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.0]])
    assert spacing(line) == 0
    # Nearest neighbours, summed over the objectives, at 2, 2, 4
    assert spacing(line[[0, 1, 3]]) == pytest.approx(np.std([2, 2, 4], ddof=1))
    assert np.isnan(spacing(line[:1])) and spacing(line[:2]) == 0
    assert objective_ranges(np.stack([line, 2 * line])).tolist() == [[3, 3], [6, 6]]


def test_mean_utility_by_hand() -> None:
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    points = np.array([[4.0, 9.0], [3.0, 2.0], [1.0, 1.0]])
    assert mean_utility(points, weights, [True, False]) == pytest.approx((4 + 0.5 - 1) / 3)
    assert mean_utility(points[1:2], weights, [True, False]) == pytest.approx(0.5), "one point serves every weight"
    assert mean_utility(points[::-1], weights, [True, False]) < mean_utility(points, weights, [True, False])


# Comparison

WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
DIRECTIONS = {"detail": True, "words": False}
QUICK = {"times": 200, "seed": 3}


def judged(prompts: int = 60, own: float = 0.3) -> dict[str, Array]:
    """Four methods on the same prompts, whose difficulty they share; sipo is better, mod is soups with other noise."""
    generator = np.random.default_rng(5)
    front = np.array([[3.0, 9.0], [2.5, 7.0], [1.0, 6.0]])[:, None]
    difficulty = generator.normal(size=(1, prompts, 2))
    noise = lambda: own * generator.normal(size=(3, prompts, 2))  # noqa: E731
    return {
        "base": 1.5 + np.array([0.0, 7.0]) + difficulty[0],
        "soups": front + difficulty + noise(),
        "mod": front + difficulty + noise(),
        "sipo": front + np.array([0.5, -0.5]) + difficulty + noise(),
    }


def test_what_fronts_say() -> None:
    rewards = judged()
    result = compare(rewards, WEIGHTS, DIRECTIONS, {"detail": 0.0, "words": 10.0}, **QUICK)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert result["prompts"] == 60 and result["beyond"] == [] and result["reference_stored"]
    means = {name: each.mean(axis=-2).reshape(-1, 2) for name, each in rewards.items()}
    every = np.concatenate(list(means.values()))
    scale = np.ptp(every, axis=0)
    assert list(result["scale"].values()) == pytest.approx(scale.tolist())
    best = union_front(every / scale, [True, False])
    for name, front in result["methods"].items():
        mine = means[name]
        assert np.array([list(point["rewards"].values()) for point in front["points"]]) == pytest.approx(mine)
        assert front["hypervolume"] == pytest.approx(hypervolume(mine, np.array([0.0, 10.0]), [True, False]))
        assert front["additive_epsilon"] == pytest.approx(additive_epsilon(mine / scale, best, [True, False]))
        assert front["igd_plus"] == pytest.approx(igd_plus(mine / scale, best, [True, False]))
        assert front["utility"] == pytest.approx(mean_utility(mine, WEIGHTS, [True, False]))
        others = np.concatenate([each for other, each in means.items() if other != name])
        assert front["dominated_share"] == dominated_share(mine, others, [True, False])
        if name == "base":
            assert set(front["ranges"].values()) == {None} == set(front["control"].values())
        else:
            slopes = [np.polyfit(WEIGHTS[:, n], mine[:, n], 1)[0] * sign for n, sign in ((0, 1), (1, -1))]
            assert list(front["ranges"].values()) == pytest.approx(slopes)
        low, high = front["utility_interval"]
        assert low < front["utility"] < high
        low, high = front["hypervolume_interval"]
        assert low < front["hypervolume_corrected"] < high
        for point in front["points"]:
            assert all(point["interval"][n][0] < point["rewards"][n] < point["interval"][n][1] for n in DIRECTIONS)
    weights = [point["weights"] for point in result["methods"]["mod"]["points"]]
    assert weights == [{"detail": 1, "words": 0}, {"detail": 0.5, "words": 0.5}, {"detail": 0, "words": 1}]
    assert result["methods"]["base"]["points"][0]["weights"] is None
    assert result["methods"]["base"]["spacing"] is None
    assert result["methods"]["sipo"]["additive_epsilon"] == 0 == result["methods"]["sipo"]["igd_plus"]
    assert result["methods"]["soups"]["dominated_share"] == 1


def test_every_pair_once_and_sipo_first() -> None:
    assert list(pairs(["base", "mod", "sipo", "sipo-soups"])) == [
        ("mod", "base"),
        ("sipo", "base"),
        ("sipo-soups", "base"),
        ("sipo", "mod"),
        ("sipo-soups", "mod"),
        ("sipo", "sipo-soups"),
    ]
    assert list(pairs(["mod"])) == []


def test_differences_are_of_the_numbers_shown_and_antisymmetric() -> None:
    rewards = judged()
    result = compare(rewards, WEIGHTS, DIRECTIONS, **QUICK)
    for names, difference in result["differences"].items():
        a, b = names.split(" - ")
        for key in MEASURES:
            assert difference[key] == pytest.approx(result["methods"][a][key] - result["methods"][b][key])
        assert difference["utility_interval"][0] < difference["utility"] < difference["utility_interval"][1]
        assert difference["hypervolume_corrected"] == pytest.approx(
            result["methods"][a]["hypervolume_corrected"] - result["methods"][b]["hypervolume_corrected"]
        )
    turned = compare(dict(reversed(rewards.items())), WEIGHTS, DIRECTIONS, **QUICK)
    one, other = result["differences"]["mod - soups"], turned["differences"]["soups - mod"]
    for key in MEASURES:
        assert one[key] == pytest.approx(-other[key])
        assert one[f"{key}_interval"] == pytest.approx([-end for end in reversed(other[f"{key}_interval"])])
    assert {one["is"], other["is"]} == {"not shown"} and one["p"] == pytest.approx(other["p"])
    assert result["differences"]["sipo - mod"]["hypervolume_interval"][0] > 0
    assert result["differences"]["sipo - mod"]["is"] == "above" == result["differences"]["sipo - base"]["is"]
    low, high = result["differences"]["mod - soups"]["hypervolume_interval"]
    assert low < 0 < high


def test_directions_are_only_a_matter_of_sign() -> None:
    rewards = judged()
    result = compare(rewards, WEIGHTS, DIRECTIONS, **QUICK)
    flipped = compare({n: -each for n, each in rewards.items()}, WEIGHTS, {"detail": False, "words": True}, **QUICK)
    for name, front in result["methods"].items():
        for key in ("hypervolume", "utility", "additive_epsilon", "igd_plus", "dominated_share", "ranges"):
            assert flipped["methods"][name][key] == pytest.approx(front[key])
    assert flipped["reference_point"] == pytest.approx({n: -v for n, v in result["reference_point"].items()})


def test_what_methods_share_is_no_doubt_about_their_difference() -> None:
    """On correlated rewards the paired interval is far narrower than one from independent resamples."""
    result = compare(judged(own=0.1), WEIGHTS, DIRECTIONS, {"detail": -2.0, "words": 14.0}, **QUICK)
    fronts, (low, high) = result["methods"], result["differences"]["sipo - mod"]["hypervolume_interval"]
    widths = [np.diff(fronts[name]["hypervolume_interval"])[0] for name in ("sipo", "mod")]
    assert high - low < 0.5 * np.hypot(*widths)


def test_a_stored_reference_is_used_and_says_whom_it_leaves_out() -> None:
    rewards = judged()
    stored = {"detail": 2.0, "words": 8.0}
    result = compare(rewards, WEIGHTS, DIRECTIONS, stored, **QUICK)
    assert result["reference_point"] == stored
    expected = {
        (method, name, at)
        for method, each in rewards.items()
        for at, point in enumerate(each.mean(axis=-2).reshape(-1, 2))
        for name, out in zip(DIRECTIONS, (point[0] <= 2, point[1] >= 8), strict=True)
        if out
    }
    labels = [dict(zip(DIRECTIONS, weight, strict=True)) for weight in WEIGHTS.tolist()]
    found = {
        (each["method"], name, labels.index(each["weights"]) if each["weights"] else 0)
        for each in result["beyond"]
        for name in each["objectives"]
    }
    assert found == expected and len(expected) >= 7
    free = compare(rewards, WEIGHTS, DIRECTIONS, **QUICK)
    assert free["beyond"] == [] and not free["reference_stored"]
    every = np.concatenate([each.mean(axis=-2).reshape(-1, 2) for each in rewards.values()])
    assert list(free["reference_point"].values()) == pytest.approx(reference_below(every, [True, False]).tolist())


def test_one_method_and_an_objective_that_never_moves() -> None:
    rewards = judged()["mod"]
    rewards[..., 1] = 4.0
    result = compare({"mod": rewards}, WEIGHTS, DIRECTIONS, {"detail": 0.0, "words": 5.0}, **QUICK)
    front = result["methods"]["mod"]
    assert result["differences"] == {} and front["additive_epsilon"] == 0 and front["dominated_share"] == 0
    assert front["ranges"]["words"] == 0 and result["scale"]["words"] == 1


def test_comparing_warns_in_one_line() -> None:
    from sipo.records import Response
    from sipo.stages.compare import fronts_of

    said: list[str] = []

    def config(reference_point: dict[str, float] | None) -> Config:
        objectives = [
            {"name": name, "better": "", "direction": "maximize" if larger else "minimize"}
            for name, larger in DIRECTIONS.items()
        ]
        places = {"run_dir": "run", "model": {"path": "model"}, "data": {"path": "rows.jsonl"}}
        evaluate = {"reference_point": reference_point, "bootstrap": 20}
        return Config.model_validate({**places, "objectives": objectives, "evaluate": evaluate})

    task = SimpleNamespace(
        config=config({"detail": 2.0, "words": 8.0}),
        objectives=("detail", "words"),
        weights=[(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)],
        progress=SimpleNamespace(say=said.append),
    )
    responses = [
        Response(method, weights, f"key{p}", "", index, "", 10 + index, True, dict(zip(DIRECTIONS, r, strict=True)))
        for method, each in judged(prompts=9).items()
        for weight, rewards in zip(task.weights if each.ndim == 3 else [None], each.reshape(-1, 9, 2), strict=True)
        for weights in [None if weight is None else dict(zip(DIRECTIONS, weight, strict=True))]
        for p, reward in enumerate(rewards.tolist())
        for index, r in enumerate((reward, [reward[0] + 1, reward[1] - 1]))
    ]
    fronts = fronts_of(task, responses[::-1])
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("warning: these points are no better than evaluate.reference_point")
    assert "sipo at detail=0 words=1 (detail); mod at detail=1 words=0 (words)" in said[0]
    assert f"and {len(fronts['beyond']) - 4} more." in said[0]
    assert list(fronts["methods"]) == ["sipo", "mod", "soups", "base"] and fronts["prompts"] == 9
    for name, each in judged(prompts=9).items():
        points = fronts["methods"][name]["points"]
        assert {point["length"] for point in points} == {10.5}
        means = each.mean(axis=-2).reshape(-1, 2) + np.array([0.5, -0.5])
        assert np.array([list(point["rewards"].values()) for point in points]) == pytest.approx(means)
    task.config = config({"detail": -9.0, "words": 99.0})
    fronts_of(task, responses)
    task.config = config(None)
    fronts_of(task, responses)
    assert len(said) == 1, "nothing to warn of"
    with pytest.raises(ValueError, match=r"evaluate.reference_point: leaves out `words`; give a number for each of"):
        config({"detail": 1.0})


# Seeds


def test_t_interval_by_hand() -> None:
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert mean == 2 and (low, high) == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))
    assert t_interval([4.0, 4.0]) == (4, 4, 4)
    with pytest.raises(SipoError, match="two seeds or more"):
        t_interval([1.0])


def test_t_intervals_cover_with_four_seeds() -> None:
    """Where a percentile bootstrap over four numbers would not."""
    generator, hits, naive = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        seeds = generator.normal(1.0, 3.0, size=4)
        _, low, high = t_interval(seeds)
        hits += low <= 1 <= high
        low, high = percentile_interval(generator.choice(seeds, size=(200, 4)).mean(axis=1))
        naive += low <= 1 <= high
    assert 930 <= hits <= 970 and naive < 900


@given(
    st.lists(arrays(float, st.tuples(st.integers(1, 4), st.just(2)), elements=values), min_size=1, max_size=7),
    st.tuples(st.booleans(), st.booleans()),
)
def test_attainment_counts_seeds(fronts: list[Array], maximise: tuple[bool, bool]) -> None:
    """A place is covered by the surface of level k / S exactly if k seeds or more weakly dominate it."""
    count = len(fronts)
    places = larger(np.array([[x, y] for x in range(-3, 4) for y in range(-3, 4)], dtype=float), list(maximise))

    def covers(points: Array) -> NDArray[np.bool_]:
        mine = larger(points, list(maximise))[None] >= larger(places, list(maximise))[:, None]
        return mine.all(axis=-1).any(axis=-1)

    attained = sum(covers(front).astype(int) for front in fronts)
    levels = [k / count for k in range(1, count + 1)]
    for k, surface in enumerate(attainment(fronts, maximise, levels), start=1):
        assert (covers(surface) == (attained >= k)).all()
        assert (np.diff(surface[:, 0]) > 0).all(), "the first objective rises"
    (median,) = attainment(fronts, maximise)
    assert (covers(median) == (attained >= count / 2)).all()


def test_attainment_is_of_two_objectives() -> None:
    with pytest.raises(SipoError, match="two objectives"):
        attainment([np.zeros((2, 3))], [True] * 3)


@pytest.mark.parametrize("sign", [[1, 1], [-1, 1], [1, -1], [-1, -1]])
def test_a_staircase_turns_where_both_are_worse(sign: list[int]) -> None:
    corners, end = np.array([[1.0, 5.0], [3.0, 2.0]]), np.array([0.0, 1.0])
    line = [[0, 5], [1, 5], [1, 2], [3, 2], [3, 1]]
    given = (corners * sign)[np.argsort((corners * sign)[:, 0])]
    assert staircase(given, end * sign).tolist() == (np.array(line) * sign).tolist()


def shares(generator: np.random.Generator, right: float, prompts: int, lacking: float) -> dict[str, Array]:
    """A base model that ranks nothing and a method that is right with a probability, alike at most weights; labels
    lack.
    """
    known = np.where(generator.random((1, prompts, 2)) < lacking, np.nan, 1.0)
    flips = generator.random((5, prompts, 2)) < 0.1
    ranks = (
        (generator.random((1, prompts, 2)) < right) ^ flips
        if right == 0.5
        else generator.random((5, prompts, 2)) < right
    )
    return {"base": np.full((1, prompts, 2), 0.5) * known, "mod": ranks.astype(float) * known}


@pytest.mark.parametrize("lacking", [0.0, 0.4])
def test_by_labels_a_method_at_chance_is_called_nothing_and_one_that_is_right_is_above(lacking: float) -> None:
    weights, maximise = np.array(simplex_lattice(2, 4)), {"helpful": True, "harmless": True}
    words = {0.5: Counter[str](), 0.8: Counter[str]()}
    told = {0.5: Counter[str](), 0.8: Counter[str]()}
    for right, runs in ((0.5, 150), (0.8, 10)):
        for run in range(runs):
            rewards = shares(np.random.default_rng(run), right, 80, lacking)
            found = compare(rewards, weights, maximise, {"helpful": 0.0, "harmless": 0.0}, unsteered=["base"], times=10)
            words[right][found["differences"]["mod - base"]["is"]] += 1
            told[right].update(
                each.word for each in gains(rewards, maximise, [("mod", "base")])["mod", "base"].values()
            )
            assert found["prompts"] == min(np.isfinite(rewards["mod"]).all(axis=0).sum(axis=0))
    assert words[0.5]["not shown"] >= 150 - 17  # 5 % of runs, and three deviations
    assert told[0.5]["not shown"] >= 300 - 9  # 1 % of runs have a false one
    assert words[0.8] == {"above": 10} and told[0.8]["above"] >= 18


@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_what_is_not_known_changes_no_mean_and_leaves_the_error_of_a_ratio(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    values = generator.random((2, 400, 2))
    values[:, generator.random((400, 2)) > share] = np.nan
    complete = filled(values)
    known = np.isfinite(values)
    assert complete.mean(axis=1) == pytest.approx(np.nanmean(values, axis=1))
    deviations = np.where(known, values - np.nanmean(values, axis=1, keepdims=True), 0.0)
    of_ratio = (deviations**2).sum(axis=1) / known.sum(axis=1) ** 2  # a ratio estimator's variance
    assert complete.var(axis=1) / 400 == pytest.approx(of_ratio)
    assert filled(complete) is complete and known_prompts(values) == known[0].sum(axis=0).tolist()


def test_few_labels_forbid_a_verdict_however_many_prompts_there_are() -> None:
    rewards = shares(np.random.default_rng(1), 0.9, 200, 0.0)
    lacking = {
        name: np.where(np.arange(200)[None, :, None] < [25, 200], each, np.nan) for name, each in rewards.items()
    }
    weights, maximise = np.array(simplex_lattice(2, 4)), {"helpful": True, "harmless": True}
    few, many = (compare(each, weights, maximise, unsteered=["base"], times=10) for each in (lacking, rewards))
    assert many["differences"]["mod - base"]["is"] == "above"
    said = few["differences"]["mod - base"]
    assert (said["is"], said["because"], few["prompts"]) == ("not shown", "25 prompts are fewer than 30", 25)
    of = gains(lacking, maximise, [("mod", "base")])["mod", "base"]
    assert (of["helpful"].word, of["harmless"].word) == ("not shown", "above")
