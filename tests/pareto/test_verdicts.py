"""What may be said of a difference: the tests against their definitions, and what the comparison says where the truth is
known."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, nct, skew, ttest_rel
from scipy.stats import t as student

from benchmarks.null import NULLS, WORLDS, World, outcomes, summary
from sipo.pareto.bootstrap import Array, corrected
from sipo.pareto.compare import compare
from sipo.pareto.verdicts import ENOUGH, LEVEL, OPPOSED, SKEWED, Difference, decide, holm, mean_difference, moving

LIFTS = {"base": 0.0, "mod": 0.3, "sipo": 1.0}
WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


@given(st.lists(st.tuples(st.floats(-9, 9, width=16), st.floats(-9, 9, width=16)), min_size=3, max_size=30))
def test_the_test_is_student_s_paired_one(values: list[tuple[float, float]]) -> None:
    a, b = np.array(values).T
    found = mean_difference(a - b)
    if np.ptp(a - b) > 1e-6:
        expected = ttest_rel(a, b)
        assert replace(found, skew=0.0).p == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.skew == (pytest.approx(skew(a - b, bias=False)) if len(a) == ENOUGH else 0)
        interval = expected.confidence_interval(0.95)
        assert found.interval() == pytest.approx((interval.low, interval.high))
        assert (replace(found, skew=0.0).p < 0.05) == (not found.interval()[0] <= 0 <= found.interval()[1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("draw", ["exponential", "lognormal"])
def test_a_long_tail_does_not_pass_for_a_difference(draw: str, sign: int) -> None:
    """Of 2,000 samples whose mean is 0 in truth, Student's test calls 6 % and more different, on one side nearly all."""
    generator = np.random.default_rng(0)
    drawn = {"exponential": generator.exponential(size=(2000, 30)) - 1}
    drawn["lognormal"] = generator.lognormal(sigma=0.6, size=(2000, 30)) - np.exp(0.18)
    found = [mean_difference(sign * each) for each in drawn[draw]]
    plain = [replace(each, skew=0.0) for each in found]
    students, raised = (float(np.mean([each.p < LEVEL for each in part])) for part in (plain, found))
    assert students > 0.06 > raised and students - raised > 0.015
    assert all(mine.p >= other.p for mine, other in zip(found, plain, strict=True))
    assert mean_difference(sign * (drawn[draw][0] + 10)).p < 1e-6, "what is clear stays so"
    assert decide(Difference(1.0, 0.45, 99, -5.0), 0.09) == ("not shown", SKEWED)


@pytest.mark.parametrize("units", [3, 5, 30, 500])
def test_what_could_be_seen_is_seen_in_four_of_five(units: int) -> None:
    """The exact power of the two-sided test at 5 %, by the noncentral t distribution."""
    found = Difference(0.0, 0.3, units - 1)
    for family in (1, 15):
        critical, shift = student.ppf(1 - 0.025 / family, units - 1), found.detectable(family) / found.error
        power = nct.sf(critical, units - 1, shift) + nct.cdf(-critical, units - 1, shift)
        assert power == pytest.approx(0.8, abs=0.02 if units > 5 else 0.15)


def test_what_could_be_seen_among_many_pairs_is_said_in_four_of_five_runs() -> None:
    """Six methods of which one is better by what the report of such a run says could be seen."""
    worlds = [np.random.default_rng(seed).normal(size=(6, 3, 60, 2)) + 4 * WEIGHTS[:, None] for seed in range(60)]
    names = [f"m{i}" for i in range(6)]
    directions = {"a": True, "b": True}

    def last(world: np.ndarray, lift: float) -> dict[str, Any]:
        world = world + lift * np.arange(6).reshape(6, 1, 1, 1).clip(4) - 4 * lift
        return compare(dict(zip(names, world, strict=True)), WEIGHTS, directions, times=5)["differences"]["m5 - m0"]

    size = float(np.mean([last(world, 0.0)["detectable"] for world in worlds[:10]]))
    assert np.mean([last(world, size)["is"] == "above" for world in worlds]) >= 0.7


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_by_bonferroni(p: list[float]) -> None:
    """A statement stands if every intersection of statements that holds it falls by Bonferroni."""
    for k, adjusted in enumerate(holm(p)):
        others = [i for i in range(len(p)) if i != k]
        families = [(k, *more) for size in range(len(p)) for more in combinations(others, size)]
        expected = max(min(1.0, len(each) * min(p[i] for i in each)) for each in families)
        assert adjusted == pytest.approx(expected)
        assert adjusted >= p[k]


def test_rounding_is_no_difference() -> None:
    a = np.full(50, 0.1 + 0.2)
    assert mean_difference(a - 0.3, largest=0.3).p == 1.0
    assert mean_difference(np.full(50, 1.0)).p == 0.0, "the same gain everywhere is no chance"
    rewards = np.full((3, 50, 2), 0.3)
    rewards[..., 0] = 0.1 + 0.2 + np.random.default_rng(0).normal(size=(3, 50)) + WEIGHTS[:, :1] * 2
    assert moving(rewards, rewards[:1], WEIGHTS) == [True, False]


def test_what_forbids_a_verdict() -> None:
    clear, hidden, alike = Difference(1.0, 0.1, 99), Difference(0.1, 0.1, 99), Difference(0.0, 0.0, 99)
    assert decide(clear, clear.p, (0.5, 2.0)) == ("above", "")
    assert decide(Difference(-1.0, 0.1, 99), 0.0, (-2.0, 2.0)) == ("below", ""), "hypervolume need not show it too"
    assert decide(clear, clear.p, (-2.0, -0.5)) == ("not shown", OPPOSED)
    assert decide(clear, clear.p, (-2.0, -0.5), prompts=ENOUGH - 1)[1] == "29 prompts are fewer than 30"
    assert decide(clear, clear.p, still=["tone", "length"])[1] == "nothing moves tone and length beyond the noise"
    assert decide(hidden, hidden.p) == ("not shown", "its interval holds 0")
    assert decide(clear, LEVEL, family=9) == ("not shown", "it does not stand among 9 comparisons at once")
    assert decide(alike, alike.p) == ("not shown", "the two are alike throughout")
    assert Difference(1.0, 0.0, 0).p == 1.0 and Difference(1.0, 0.0, 0).detectable() is None
    assert decide(clear, clear.p, rare=["tone"])[1] == "5 prompts, fallen out otherwise in tone, could make it up"


@pytest.mark.parametrize("prompts", [1, 2, 29, 30])
def test_few_prompts_are_said_to_be_few(prompts: int) -> None:
    generator = np.random.default_rng(prompts)
    base = 3 * WEIGHTS[:, None] + generator.normal(size=(1, prompts, 2))
    better = base + 2.0 + 0.1 * generator.normal(size=base.shape)
    found = compare({"mod": base, "sipo": better}, WEIGHTS, {"a": True, "b": True}, times=50)["differences"]
    said = found["sipo - mod"]
    assert (said["is"], said["because"]) == (
        ("above", "")
        if prompts >= ENOUGH
        else ("not shown", f"{prompts} prompt{' is' if prompts == 1 else 's are'} fewer than 30")
    )
    assert said["detectable"] is None if prompts == 1 else said["detectable"] > 0


@pytest.mark.parametrize("direction", [True, False])
def test_an_objective_that_nothing_moves_allows_no_verdict(direction: bool) -> None:
    """Constant, or noise alone; and one that only the change of method moves is enough."""
    generator = np.random.default_rng(0)
    sign, noise = 1.0 if direction else -1.0, lambda: generator.normal(size=(3, 60, 2))
    for still in (0.0, 1.0):
        rewards = {name: 4 * WEIGHTS[:, None] + noise() + lift for name, lift in (("mod", 0.0), ("sipo", 3.0))}
        for each in rewards.values():
            each[..., 1] = 7.0 + still * generator.normal(size=(3, 60))
        said = compare({n: sign * e for n, e in rewards.items()}, WEIGHTS, {"a": direction, "b": direction}, times=50)
        each = said["differences"]["sipo - mod"]
        assert (each["is"], each["still"]) == ("not shown", ["b"]) and each["p"] < 0.01
    flat = {"mod": noise(), "sipo": noise() + 3.0}
    assert compare(flat, WEIGHTS, {"a": True, "b": True}, times=50)["differences"]["sipo - mod"]["is"] == "above"


@pytest.mark.parametrize("prompts", [30, 200])
def test_what_is_the_same_for_all_prompts_moves_all_the_same(prompts: int) -> None:
    """As where the limit cuts every answer: exact at each weight, and no reason to doubt another objective."""
    mod = np.random.default_rng(0).normal(size=(3, prompts, 2))
    mod[..., 1] = 24.0 * WEIGHTS[:, 1:]
    mod[2, 0, 1] = 23.0
    found = compare({"mod": mod, "sipo": mod + np.array([2.0, 0.0])}, WEIGHTS, {"a": True, "b": True}, times=5)[
        "differences"
    ]
    assert found["sipo - mod"]["still"] == [] == found["sipo - mod"]["rare"] and found["sipo - mod"]["is"] == "above"


@pytest.mark.parametrize("noise", ["rare", "discrete", "skewed", "heavy"])
def test_weights_that_steer_do_not_make_chance_a_difference(noise: str) -> None:
    """A front that steers, of the utility of a base of one point: no objective stands still that could forbid it."""
    steers = 0.05 if noise == "rare" else 2.0
    world = World(noise, prompts=30, divisions=10, steers=steers, single=True)
    lift = -steers * float((world.weights**2).sum(axis=1).mean())
    found = Counter(each["is"] for each in outcomes(replace(world, lift=lift), runs=150, times=5))
    assert found["above"] + found["below"] <= bound(150)


def test_units_and_offsets_change_no_verdict() -> None:
    generator = np.random.default_rng(0)
    drawn = {name: generator.normal(size=(3, 40, 2)) + 3 * WEIGHTS[:, None] + lift for name, lift in LIFTS.items()}

    def said(rewards: dict[str, Array]) -> tuple[list[Any], list[float]]:
        found = compare(rewards, WEIGHTS, {"a": True, "b": False}, times=5)
        volumes = [each["hypervolume"] for each in found["methods"].values()]
        differences = [(each["is"], each["because"], each["still"]) for each in found["differences"].values()]
        return differences, [each / volumes[0] for each in volumes]

    words, shares = said(drawn)
    for change, offset in ((1e6, 0.0), (1e-6, 0.0), (1e-14, 0.0), (1.0, 1e6)):
        turned = said({name: each * change + offset for name, each in drawn.items()})
        assert turned[0] == words and turned[1] == pytest.approx(shares, rel=1e-3)


def test_a_method_that_is_base_is_not_told_from_it() -> None:
    """As where no epoch beat the start: the same answers at every weight."""
    drawn = np.random.default_rng(0).normal(size=(3, 60, 2))
    found = compare(
        {"base": drawn, "sipo": drawn.copy()}, WEIGHTS, {"a": True, "b": True}, unsteered=["base"], times=50
    )
    each = found["differences"]["sipo - base"]
    assert (each["utility"], each["hypervolume_corrected"], each["p"]) == (0, 0, 1)
    assert each["because"] == "the two are alike throughout"
    assert [point["weights"] for point in found["methods"]["base"]["points"]] == [None] * 3


def test_the_lift_of_a_maximum_is_taken_off() -> None:
    """The largest of five means that are equal in truth: the plain value is biased, the corrected one is not."""
    plain, mended, held = [], [], 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=(5, 50))
        draws = generator.integers(0, 50, size=(100, 50))
        value, sampled = values.mean(axis=1).max(), values[:, draws].mean(axis=2).max(axis=0)
        estimate, low, high = corrected(float(value), sampled)
        plain.append(value), mended.append(estimate)
        held += low <= 0 <= high
    assert np.mean(plain) > 0.14 and abs(np.mean(mended)) < 0.04 and held >= 270
    still = np.zeros(50)
    assert corrected(0.0, still) == (0, 0, 0)


def bound(runs: int) -> int:
    """What a share of 5 % exceeds in one of a thousand such tests."""
    return int(binom.ppf(0.999, runs, LEVEL))


@pytest.mark.parametrize("name", NULLS)
def test_nothing_is_said_where_there_is_nothing(name: str) -> None:
    found = summary(NULLS[name], runs=100, times=25)
    assert 100 * (found["above"] + found["below"]) <= bound(100)
    assert found["hypervolume held"] >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
def test_nothing_is_said_in_a_thousand_runs(name: str) -> None:
    found = summary(NULLS[name], runs=1000)
    assert found["above"] <= 0.05 and found["below"] <= 0.05
    assert found["hypervolume held"] >= 0.9
    assert abs(found["corrected"]) <= max(0.35 * abs(found["plain"]), 0.15 * abs(NULLS[name].corner[0]))


@pytest.mark.parametrize(
    ("world", "word"),
    [
        (WORLDS["a lift of .3 to a steered front"], "above"),
        (WORLDS["a lift of .5 to all"], "above"),
        (WORLDS["a fall of .5"], "below"),
        (World("skewed", prompts=200, steers=3.0, base_steers=3.0, lift=1.0), "above"),
        (World("discrete", prompts=100, steers=1.0, base_steers=1.0, lift=0.25), "above"),
        (World("rare", prompts=500, steers=0.2, base_steers=0.2, lift=0.05), "above"),
        (World(objectives=3, divisions=3, steers=2.0, base_steers=2.0, lift=0.4, single=True), "above"),
    ],
)
def test_a_difference_that_is_there_is_found(world: World, word: str) -> None:
    assert summary(world, runs=30, times=25)[word] >= 0.8


def test_a_family_of_methods_seldom_says_anything_false() -> None:
    """Six methods that are one: at most one run of twenty calls any of fifteen pairs different."""
    runs, false = 80, 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        rewards = {f"m{i}": 2 * WEIGHTS[:, None] + generator.normal(size=(3, 40, 2)) for i in range(6)}
        found = compare(rewards, WEIGHTS, {"a": True, "b": True}, times=10, seed=seed)["differences"]
        false += any(each["is"] != "not shown" for each in found.values())
    assert false <= bound(runs)
