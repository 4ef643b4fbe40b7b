"""Shares of wins: what correction and equal length do, against simulated judges whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import t

from sipo.pareto.wins import at_equal_length, of_like_length, win_rate

SHARES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=40).map(np.array)


def judged(rng: np.random.Generator, truth: np.ndarray, right: float) -> np.ndarray:
    """What a judge says that finds the truth with this probability, and goes by the place, .5, in a fifth of pairs.

    Its accuracy with ties as a half is .8 * right + .1.
    """
    said = np.where(rng.random(len(truth)) < right, truth, 1 - truth)
    return np.where(rng.random(len(truth)) < 0.2, 0.5, said)


@pytest.mark.parametrize(("share", "right", "prompts", "labels"), [
    (0.5, 0.85, 100, 100), (0.7, 0.75, 200, 60), (0.9, 0.9, 60, 150), (0.35, 0.65, 150, 300), (0.97, 0.97, 40, 40),
])  # fmt: skip
def test_the_corrected_share_is_right_in_the_mean_and_its_interval_holds_the_truth(
    share: float, right: float, prompts: int, labels: int
) -> None:
    rng, runs = np.random.default_rng(int(1000 * share)), 600
    held, plain_held, values = 0, 0, []
    for _ in range(runs):
        truth = (rng.random(prompts) < share).astype(float)
        said = judged(rng, truth, right)
        found, plain = win_rate(said, judged(rng, np.ones(labels), right)), win_rate(said)
        values.append(found.value)
        held += found.low <= share <= found.high
        plain_held += plain.low <= share <= plain.high
    assert held / runs >= 0.93, "95 % within the error of so many runs"
    assert abs(np.median([each for each in values if each is not None]) - share) < 0.04
    if share == 0.7:
        assert plain_held / runs < 0.5, "what the judge says is no estimate of what labels would say"


@given(SHARES)
def test_without_labels_it_is_the_mean(wins: np.ndarray) -> None:
    found = win_rate(wins)
    assert found.value == pytest.approx(wins.mean()) and 0 <= found.low <= found.value <= found.high <= 1


def test_many_flawless_labels_change_nothing_and_a_judge_by_chance_says_nothing() -> None:
    wins = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 200)
    plain, sure = win_rate(wins), win_rate(wins, np.ones(1_000_000))
    assert sure == pytest.approx(plain, abs=1e-4)
    half = t.ppf(0.975, 199) * wins.std(ddof=1) / np.sqrt(200)
    assert plain.high - plain.low == pytest.approx(2 * half, rel=0.02)
    assert win_rate(wins, np.array([1.0, 0.0] * 50)) == (None, 0, 1)
    assert win_rate(wins, np.array([1.0, 0.0] * 50 + [1.0]))[1:] == (0, 1)
    with pytest.raises(ValueError, match="nothing"):
        win_rate(wins, np.array([]))


@given(SHARES, st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]), min_size=2, max_size=60).map(np.array))
def test_the_other_side_has_the_rest(wins: np.ndarray, right: np.ndarray) -> None:
    mine, theirs = win_rate(wins, right), win_rate(1 - wins, right)
    if mine.value is None:
        assert theirs.value is None
    else:
        assert mine.value == pytest.approx(1 - theirs.value)
    assert (mine.low, mine.high) == pytest.approx((1 - theirs.high, 1 - theirs.low))


def test_few_wins_that_are_alike_are_no_certainty() -> None:
    found = win_rate(np.ones(5))
    assert found.value == 1 and found.low < 0.9


def test_a_taste_for_length_is_taken_out() -> None:
    """Two methods, of which the second writes longer and is no better: what it gains by length is gone."""
    rng, count = np.random.default_rng(0), 4000
    groups = np.repeat([0, 1, 2], count)
    longer = rng.normal(0, 40, 3 * count) + np.array([0.0, 40.0, 40.0])[groups]
    better = np.array([0.0, 0.0, 1.0])[groups]
    taste = 1.5 * np.tanh(longer / np.sqrt((longer**2).mean()))
    wins = (rng.random(3 * count) < expit(better + taste)).astype(float)
    plain = [wins[groups == g].mean() for g in range(3)]
    rates, liking = at_equal_length(wins, longer, groups, range(len(wins)))
    found = [each.value for each in rates]
    assert plain[1] > 0.6
    assert found == pytest.approx([0.5, 0.5, expit(1.0)], abs=0.03) and liking == pytest.approx(1.5, abs=0.15)
    like = of_like_length(np.log((100 + longer.clip(-90)) / 100))
    assert like.mean() > 0.2 and wins[like & (groups == 1)].mean() < plain[1]


@pytest.mark.parametrize("unit", [0.001, 1.0, 1e6])
def test_equal_length_knows_no_unit_and_bears_what_is_always_so(unit: float) -> None:
    wins, longer = np.array([1.0, 1, 1, 0, 0.5, 1]), np.array([3.0, -2, 0, 1, 2, -1])

    def told(wins: np.ndarray, longer: np.ndarray) -> tuple[np.ndarray, float]:
        rates, liking = at_equal_length(wins, longer, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
        return np.array(rates, dtype=float), liking

    found, liking = told(wins, unit * longer)
    assert found == pytest.approx(told(wins, longer)[0]) and 0.95 < found[0, 0] < 1
    assert (found[:, 1] <= found[:, 0]).all() and (found[:, 0] <= found[:, 2]).all() and found[0, 1] < 0.9
    mirrored, other = told(1 - wins, -unit * longer)
    assert mirrored == pytest.approx(1 - found[:, [0, 2, 1]]) and other == pytest.approx(liking)
    same, none = told(wins, 0 * longer)
    assert none == 0 and same[1, 0] == pytest.approx(0.5, abs=1e-3)


def test_the_interval_at_equal_length_holds_the_truth_where_answers_to_a_prompt_are_alike() -> None:
    """Of two groups to the same 40 prompts, some of which suit all answers and some none."""
    held, runs = 0, 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        longer, suits = rng.normal(5, 30, size=(2, 40)), rng.random(40)
        # Where a prompt's chance is even from 0 to 1, an answer of the same length wins half of the time.
        taste = 0.3 * np.tanh(longer / np.sqrt((longer**2).mean())) * np.minimum(suits, 1 - suits)
        wins = (rng.random((2, 40)) < suits + taste).astype(float)
        rates, _ = at_equal_length(wins.ravel(), longer.ravel(), np.repeat([0, 1], 40).tolist(), [*range(40)] * 2)
        held += sum(each.low <= 0.5 <= each.high for each in rates)
    assert held / (2 * runs) >= 0.92
