"""The first screen: what is said of gains and costs, what is recommended, and what noise is kept from saying."""

from typing import Any

import numpy as np
import pytest

from sipo.pareto.choosing import equal_gain, knee, steadiness
from sipo.pareto.compare import compare, pairs
from sipo.pareto.gains import FAMILY_LEVEL, gains
from sipo.pareto.indicators import mean_utility
from sipo.report.decision import Decision, decision, ratio

WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
LABELS = [{"detail": float(a), "words": float(b)} for a, b in WEIGHTS]
MAXIMISE = {"detail": True, "words": False}
FRONT = np.array([[3.0, 9.0], [2.5, 7.0], [1.0, 6.0]])


def decided(rewards: dict[str, np.ndarray], proposal: dict[str, Any] | None = None) -> Decision:
    found = compare(rewards, WEIGHTS, MAXIMISE, unsteered=["base"], times=50)
    objectives = [{"name": "detail", "direction": "maximize"}, {"name": "words", "direction": "minimize"}]
    return decision({"objectives": objectives, **found}, rewards, LABELS, proposal)


def drawn(shifts: dict[str, tuple[float, float]], prompts: int = 80, spread: float = 0.3) -> dict[str, np.ndarray]:
    """Methods whose rewards are those of one front, shifted; base is in its middle."""
    generator = np.random.default_rng(0)
    return {
        name: (FRONT[[1, 1, 1]] if name == "base" else FRONT)[:, None]
        + np.array(shift)
        + generator.normal(size=(3, prompts, 2)) * spread
        for name, shift in shifts.items()
    }


def test_gains_and_costs_are_told_in_the_objectives_own_units() -> None:
    found = decided(drawn({"base": (-1, 2), "soups": (0, 0), "mod": (0.5, 0), "sipo": (0.5, 1.0)}))
    assert found.focus == "sipo"
    assert found.sentence.startswith("On average over the weights, against the base model sipo improves ")
    base, soups, mod = (each for each in found.lines if each.method == "sipo")
    assert soups.gains["detail"].value == pytest.approx(0.5, abs=0.1) and soups.gains["detail"].word == "above"
    assert soups.gains["words"].value == pytest.approx(-1.0, abs=0.1), "more words are worse"
    assert mod.gains["detail"].word == "not shown" and mod.gains["words"].word == "below"
    assert "against mod it worsens words by " in found.sentence and "and shows no change in detail" in found.sentence
    assert [(each.method, each.other) for each in found.lines] == [
        *((name, "base") for name in ("soups", "mod", "sipo")),
        ("sipo", "soups"),
        ("sipo", "mod"),
    ]
    assert base.gains["detail"].low < base.gains["detail"].value < base.gains["detail"].high


def test_of_many_methods_the_sentence_tells_a_few_and_the_table_all() -> None:
    shifts = {"base": (-1, 2), **dict.fromkeys(("lw", "modpo", "raco", "soups", "mod", "sipo"), (0, 0))}
    found = decided(drawn(shifts))
    assert len(found.lines) == 6 + 5 and found.sentence.endswith("is shown. The table has the other 2.")
    assert "against soups, mod and lw no difference" in found.sentence and "raco" not in found.sentence


def test_a_pair_is_told_the_same_from_either_side() -> None:
    rewards = drawn({"soups": (0, 0), "mod": (0.5, 0.2)})
    there = gains(rewards, MAXIMISE, [("mod", "soups")])["mod", "soups"]["detail"]
    found = decided({"mod": rewards["mod"], "soups": rewards["soups"], "base": rewards["soups"] - 3})
    here = next(each for each in found.lines if each.other != "base").gains["detail"]
    assert {there.word, here.word} <= {"above", "below"} and abs(here.value) == pytest.approx(abs(there.value))


@pytest.mark.parametrize("methods", [2, 4])
def test_where_nothing_differs_a_gain_is_rarely_told(methods: int) -> None:
    """The share of runs with any word is held against its level, with four standard errors to spare."""
    generator = np.random.default_rng(1)
    runs, told = 300, 0
    for _ in range(runs):
        skewed = generator.exponential(size=(methods, 3, 40, 2)) + generator.normal(size=(1, 1, 40, 2))
        rewards = {str(i): each for i, each in enumerate(skewed)}
        found = gains(rewards, MAXIMISE, list(pairs(list(rewards))))
        told += any(each.shown for pair in found.values() for each in pair.values())
    assert told / runs <= FAMILY_LEVEL + 4 * (FAMILY_LEVEL * (1 - FAMILY_LEVEL) / runs) ** 0.5


def test_a_gain_that_a_few_prompts_make_up_is_not_told() -> None:
    """Something rare that is counted: three prompts of eighty have it under one method, none under the other."""
    rare = np.zeros((3, 80, 2))
    rare[:, :3, 0] = 1.0
    found = gains({"a": rare, "b": np.zeros((3, 80, 2))}, MAXIMISE, [("a", "b")])["a", "b"]
    assert not found["detail"].shown and not found["words"].shown


def test_few_prompts_and_equal_methods_end_in_no_recommendation() -> None:
    few = decided(drawn({"base": (-1, 2), "mod": (0, 0)}, prompts=12))
    assert few.recommended is None and "fewer than 30" in few.instead and "from 12 held-out prompts" in few.sentence
    assert not any(gain.shown for line in few.lines for gain in line.gains.values())
    generator = np.random.default_rng(3)
    same = decided({name: generator.normal(size=(3, 60, 2)) for name in ("base", "mod", "soups")})
    assert same.recommended is None and "keep the base model" in same.instead
    assert "no difference is shown" in same.sentence and "More held-out prompts" in same.instead
    worse = decided(drawn({"base": (1, -2), "mod": (0, 0)}))
    assert worse.recommended is None and "More held-out prompts" not in worse.instead, "it is below"


def test_a_gain_that_is_told_and_does_not_count_is_explained() -> None:
    """One objective is better at every weight, and nothing moves the other: the table shows it, utility does not."""
    generator = np.random.default_rng(5)
    rewards = {name: generator.normal(size=(3, 60, 2)) * 0.3 for name in ("base", "mod")}
    rewards["base"][:] = rewards["base"][:1]
    rewards["mod"] += np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])[:, None]
    found = decided(rewards)
    assert "improves detail" in found.sentence and found.recommended is None
    assert "by mean utility (nothing moves words beyond the noise): keep the base model" in found.instead


def test_of_methods_that_are_not_told_apart_the_cheapest_is_recommended() -> None:
    found = decided(drawn({"base": (-1, 2), "mod": (0, 0), "soups": (0, 0)})).recommended
    assert found and found.method == "soups" and "is not told apart from mod; one model writes" in found.why[0]
    better = decided(drawn({"base": (-1, 2), "soups": (0, 0), "mod": (0.6, -0.6)})).recommended
    assert better and better.method == "mod" and "mod is above soups and the base model" in better.why[0]
    alone = decided(drawn({"mod": (0, 0)}))
    assert alone.recommended and alone.recommended.by == "--knee" and "mod alone" in alone.sentence
    none = decided({"base": drawn({"base": (0, 0)})["base"]})
    assert none.recommended is None and "add mod or soups" in none.instead


def test_a_weight_at_which_nothing_is_gained_is_not_recommended() -> None:
    """What is good at each weight's own objective alone pays by utility, and in the middle it is the base model."""
    rewards = drawn({"base": (0, 0), "mod": (0, 0)}, spread=0.05)
    rewards["base"] = rewards["base"] - np.array([2.5, 7.0]) + np.array([2.0, 8.0])
    rewards["mod"] = rewards["mod"] - FRONT[:, None] + np.array([[4.0, 10.0], [2.0, 8.0], [0.0, 6.0]])[:, None]
    found = decided(rewards)
    assert found.recommended is None and "mod is above the base model by mean utility" in found.instead
    assert "50 : 50, no gain over the base model is shown in any objective" in found.instead
    lifted = decided({**rewards, "mod": rewards["mod"] + np.array([0.2, 0.0])}).recommended
    assert lifted and lifted.why[-1] == "Even there no gain over the base model is shown in words."


def test_the_recommended_weight_is_that_of_choose_and_its_numbers_are_the_point_s() -> None:
    rewards = drawn({"base": (-1, 2), "mod": (0, 0), "sipo": (0.5, -0.5)})
    found = decided(rewards).recommended
    assert found and found.method == "sipo" and found.by == "--equal-gain"
    means, base = rewards["sipo"].mean(axis=1), rewards["base"].mean(axis=(0, 1))
    place = equal_gain(means, base, [True, False])
    assert found.place == place and found.weights == LABELS[place]
    for n, (level, sign) in enumerate(zip(found.levels, (1, -1), strict=True)):
        assert level.reward == pytest.approx(means[place, n]) and level.low < level.reward < level.high
        assert level.gain == pytest.approx(sign * (means[place, n] - base[n]))
        assert level.gain_low is not None and level.gain_low < level.gain


def test_a_choice_is_steady_where_the_points_are_clear_and_shared_where_they_are_not() -> None:
    generator = np.random.default_rng(0)
    clear = FRONT[:, None] * [1, -1] + generator.normal(size=(3, 60, 2)) * 0.01
    found = steadiness(clear, None, [True, True], 50, 0)
    assert found[knee(clear.mean(axis=1), [True, True])] == 1 and found.sum() == pytest.approx(1)
    even = generator.normal(size=(3, 60, 2))
    assert steadiness(even, generator.normal(size=(60, 2)), [True, True], 200, 0).max() < 1


def test_utility_is_the_weighted_sum_of_gains_at_equal_weights() -> None:
    """What the two tables of the page say of a pair agree: at one weight, utility is w . gains."""
    rewards, weight = drawn({"mod": (0.2, 0.1), "sipo": (0.5, -0.4)}), np.array([[0.5, 0.5]])
    one = {name: each[1:2] for name, each in rewards.items()}
    found = gains(one, MAXIMISE, [("sipo", "mod")])["sipo", "mod"]
    utility: dict[str, Any] = {n: mean_utility(each.mean(axis=1), weight, [True, False]) for n, each in one.items()}
    assert sum(0.5 * gain.value for gain in found.values()) == pytest.approx(utility["sipo"] - utility["mod"])


def test_weights_in_short() -> None:
    assert ratio({"a": 0.6, "b": 0.4}) == "60 : 40" and ratio({"a": 1 / 3, "b": 2 / 3}) == "33.3 : 66.7"


PROPOSAL = {
    "method": "soups", "other": "mod", "between": ["mod", "soups"], "prompts": 64, "shown": True,
    "difference": 0.25, "interval": [0.125, 0.375], "p": 0.001,
}  # fmt: skip


def test_between_mod_and_soups_validation_chooses_and_held_out_prompts_measure() -> None:
    """Whichever the held-out prompts would take."""
    ahead = drawn({"base": (-1, 2), "soups": (0, 0), "mod": (0.6, -0.6)})
    found = decided(ahead, PROPOSAL).recommended
    assert found and found.method == "soups", "validation says so"
    why = " ".join(found.why)
    assert "soups is above mod on 64 validation prompts (difference of utility 0.250, 95 % interval 0.125 to" in why
    assert "On the held-out prompts mod is above it all the same." in why
    assert "have chosen" not in why, "there was nothing left to choose"
    behind = decided(ahead, {**PROPOSAL, "method": "mod", "other": "soups"}).recommended
    assert behind and behind.method == "mod" and "all the same" not in " ".join(behind.why)

    alike = {**PROPOSAL, "shown": False, "difference": -0.25, "interval": [-0.75, 0.25]}
    even = decided(drawn({"base": (-1, 2), "soups": (0, 0), "mod": (0, 0)}), alike).recommended
    assert even and even.method == "soups" and "one model writes the answers of soups" in " ".join(even.why)


def test_what_validation_cannot_tell_held_out_prompts_choose_and_it_is_said() -> None:
    few = {**PROPOSAL, "method": None, "other": None, "prompts": 12}
    found = decided(drawn({"base": (-1, 2), "soups": (0, 0), "mod": (0.6, -0.6)}), few).recommended
    assert found and found.method == "mod"
    assert any(line.startswith("12 validation prompts cannot tell soups from mod: give 30") for line in found.why)
    assert any("the held-out prompts that measure them have chosen" in line for line in found.why)


def test_what_is_no_better_than_base_is_not_recommended_whatever_validation_says() -> None:
    generator = np.random.default_rng(3)
    same = decided({name: generator.normal(size=(3, 60, 2)) for name in ("base", "mod", "soups")}, PROPOSAL)
    assert same.recommended is None and "keep the base model" in same.instead
