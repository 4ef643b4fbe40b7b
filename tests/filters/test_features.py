"""What a judge sees of a response, each feature against its definition; and which of them it is given."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.bank import Bank
from sipo.filters.bradley_terry import LabelledPairs, fit_utilities, principal_axes, right_of
from sipo.filters.calibrated import Calibrated
from sipo.filters.evidence import features_of
from sipo.filters.features.embedding import mean_states
from sipo.filters.features.registry import specs
from sipo.filters.features.spec import Answers
from sipo.filters.features.surface import NAMES, surface
from sipo.filters.selection import Fit, Trial, fit_taken, held_out, take, tried
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable
from sipo.message import Message
from sipo.models.load import load_backbone
from sipo.settings import Model

LIKELIHOODS = ("logratios", "logratios-per-token", "length", "reference-per-token")


def test_likelihoods_by_hand() -> None:
    group, table = Group((1,), ((2, 3, 4, 5),)), LogprobTable()
    for model, value in {"policy:x": -1.0, "policy:y": -4.0, "reference": -2.0}.items():
        table.put(model, group, [value])
    task: Any = SimpleNamespace(objectives=("x", "y"))
    found = features_of(task, [Answers((Message("user", "q"),), ("text",), group)], table, LIKELIHOODS)
    assert {name: parts[0].tolist() for name, parts in found.items()} == {
        "logratios": [[1, -2]],
        "logratios-per-token": [[0.25, -0.5]],
        "length": [[4]],
        "reference-per-token": [[-0.5]],
    }


@pytest.mark.parametrize(
    ("text", "words", "different", "sentence"),
    [
        ("It is so. It is not so!", 7, 4, 3.5),
        ("Don't do well-known things", 4, 4, 4),
        ("Version 2.5 costs 3.10 now.", 5, 5, 5),
        ("\u6211\u4eec\u5403\u996d\u3002\u6211\u5403\uff01", 6, 4, 3),
        ("\u041e\u043d \u0442\u0430\u043c\u2026 \u041e\u043d\u0430 \u0442\u0430\u043c!", 4, 3, 2),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092a\u0922\u093c\u094b\u0964 \u092a\u0922\u093c\u094b\u0964",
            3,
            2,
            1.5,
        ),
        ("cafe\u0301s. caf\u00e9s!", 2, 2, 1),
    ],
)
def test_words_and_sentences_in_any_script(text: str, words: int, different: int, sentence: float) -> None:
    found = dict(zip(NAMES, surface(text), strict=True))
    assert (found["words"], found["different words"], found["words a sentence"]) == (words, different, sentence)


def test_marks_and_lists_are_shares() -> None:
    found = dict(zip(NAMES, surface("Two things:\n\n- one\n2) two\n"), strict=True))
    assert found["list"] == pytest.approx(2 / 3)
    assert found["punctuation"] == pytest.approx(3 / 26)
    assert surface("...") == surface("") == [0.0] * len(NAMES)


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_any_text_has_finite_statistics_that_stand_for_it_alone(text: str) -> None:
    found = dict(zip(NAMES, surface(text), strict=True))
    assert np.isfinite([*found.values()]).all()
    assert found["different words"] <= found["words"] and 0 <= found["punctuation"] <= 1 and 0 <= found["list"] <= 1
    doubled = dict(zip(NAMES, surface(f"{text}\n{text}"), strict=True))
    assert doubled["words"] == 2 * found["words"] and doubled["different words"] == found["different words"]
    assert doubled["characters a word"] == pytest.approx(found["characters a word"])


def test_an_embedding_is_the_mean_of_the_model_s_last_states(model_folder: Any) -> None:
    bank = Bank(load_backbone(Model(path=str(model_folder), dtype="float32"), "cpu"))
    groups = [Group((5, 6, 7), ((8, 9), (10, 11, 12))), Group((4, 5), ((6, 7, 8, 9),))]
    with bank.mounted([]):
        found = mean_states(bank, groups)
    for group, states in zip(groups, found, strict=True):
        for response, mine in zip(group.responses, states, strict=True):
            ids = torch.tensor([[*group.prompt, *response]])
            with torch.no_grad():
                alone = bank.model.base_model(input_ids=ids).last_hidden_state[0, len(group.prompt) - 1 : -1]
            np.testing.assert_allclose(mine, alone.mean(dim=0), atol=1e-4)


# Which features


def pairs_of(seed: int, count: int = 240, wide: int = 40) -> LabelledPairs:
    """`good` tells the first objective and `alike` the same with more columns; `wide` is noise, and nothing tells the
    second.
    """
    generator = np.random.default_rng(seed)
    good, noise = generator.normal(size=(count, 2, 1)), generator.normal(size=(count, 2, wide))
    features = np.concatenate([np.concatenate([good, 0 * good], axis=2), good, noise], axis=2)
    first = np.sign(good[:, 1, 0] - good[:, 0, 0] + generator.normal(0, 0.7, size=count))
    signs = np.stack([first, generator.choice([-1.0, 1.0], size=count)], axis=1)
    return LabelledPairs(features, signs, {"alike": slice(0, 2), "good": slice(2, 3), "wide": slice(3, 3 + wide)})


def fit_for(pairs: LabelledPairs, ridge: float = 1.0, reduced: dict[str, int] | None = None) -> Fit:
    at = np.arange(len(pairs.signs_P_N))
    return Fit(ridge, reduced or {}, at % 2, at)


def test_held_out_accuracy_sees_through_noise_that_a_fit_remembers() -> None:
    pairs = pairs_of(0, count=60, wide=60)
    judge = fit_utilities(pairs.seeing(["wide"]), ("wide",), 1e-3)
    assert right_of(judge, pairs.seeing(["wide"]))[:, 1].mean() > 0.9
    assert held_out(pairs, ("wide",), fit_for(pairs, 1e-3))[:, 1].mean() < 0.7


@pytest.mark.parametrize("seed", range(4))
def test_the_simplest_of_the_best_is_taken_and_what_tells_nothing_is_said(seed: int) -> None:
    pairs = pairs_of(seed)
    told, untold = tried(pairs, [("alike",), ("good",), ("wide",), ("alike", "good", "wide")], fit_for(pairs))
    assert take(told).features == ("good",), "as good as `alike`, with one number instead of two"
    assert [each.numbers for each in told] == [2, 1, 40, 43]
    assert told[0].beats_chance and told[1].beats_chance and not told[2].beats_chance
    assert not any(each.beats_chance for each in untold)


def test_chance_is_said_to_be_beaten_about_as_rarely_as_it_should() -> None:
    generator, said = np.random.default_rng(0), 0
    for _ in range(100):
        pairs = LabelledPairs(
            generator.normal(size=(80, 2, 3)), generator.choice([-1.0, 1.0], size=(80, 1)),
            {name: slice(at, at + 1) for at, name in enumerate("abc")},
        )  # fmt: skip
        (trials,) = tried(pairs, [("a",), ("b",), ("c",), ("a", "b", "c")], fit_for(pairs))
        said += any(each.beats_chance for each in trials)
    assert said / 100 < 0.12


def test_the_standard_error_counts_prompts_not_pairs() -> None:
    pairs = pairs_of(1)
    alone = fit_for(pairs)
    thrice = LabelledPairs(*(np.repeat(each, 3, axis=0) for each in (pairs.features_P_2_F, pairs.signs_P_N)), pairs.columns)  # fmt: skip
    together = Fit(3.0, {}, np.repeat(alone.fold_P, 3), np.repeat(alone.prompt_P, 3))
    (one, _), (three, _) = tried(pairs, [("good",)], alone), tried(thrice, [("good",)], together)
    assert three[0].accuracy == pytest.approx(one[0].accuracy)
    assert three[0].error == pytest.approx(one[0].error)
    assert three[0].by_chance == pytest.approx(one[0].by_chance)


def test_the_one_standard_error_rule() -> None:
    def trial(numbers: int, accuracy: float) -> Trial:
        return Trial((f"{numbers}",), numbers, accuracy, 0.05, 0.6)

    far, near, best = trial(1, 0.70), trial(2, 0.76), trial(9, 0.80)
    assert take([best, near, far]) is near
    assert take([far, best]) is best
    assert take([trial(2, 0.77), near]).accuracy == 0.77, "of equally few the better"


def test_each_objective_is_judged_by_what_was_taken_for_it() -> None:
    pairs = pairs_of(2)
    fit = fit_for(pairs, reduced={"wide": 5})
    judge = fit_taken(pairs, [("good",), ("good", "wide")], fit)
    assert judge.features == ("good", "wide")
    assert judge.weights_N_F.shape == (2, 41) and not judge.weights_N_F[0, 1:].any() and judge.weights_N_F[1].all()
    alone = fit_utilities(pairs.seeing(["good"]), ("good",), 1.0)
    assert judge.weights_N_F[0, 0] == alone.weights_N_F[0, 0]
    both = fit_taken(pairs, [("good", "wide")] * 2, fit)
    np.testing.assert_array_equal(both.weights_N_F[1], judge.weights_N_F[1])


def test_components_are_where_pairs_differ_most_and_a_judge_of_all_of_them_is_the_whole_one() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal(size=(500, 6)) * [5, 3, 0.1, 0.1, 0.1, 0]
    axes = principal_axes(differences, 2)
    np.testing.assert_allclose((differences @ axes).T @ (differences @ axes) / 500, np.eye(2), atol=1e-9)
    assert np.abs(axes[:2]).min(axis=1).max() < np.abs(axes[:2]).max() and np.abs(axes[2:]).max() < 0.02
    assert principal_axes(differences, 9).shape == (6, 5), "a direction without any difference is none"
    pairs = pairs_of(3, wide=6).seeing(["wide"])
    few, free = (fit_utilities(pairs, ("wide",), 1e-9, reduced) for reduced in ({"wide": 6}, None))
    np.testing.assert_allclose(few.weights_N_F, free.weights_N_F, atol=1e-4)


def test_auto_tries_what_needs_no_training_of_folds() -> None:
    auto = Calibrated(rule="calibrated", features="auto")
    assert {"length", "surface", "embedding", "reference-per-token"} == {*auto.asked}
    assert auto.sets == [*((name,) for name in auto.asked), auto.asked]
    assert not any(specs()[name].unseen for name in auto.asked)
    assert "reward" in Calibrated(rule="calibrated", features="auto", reward_model="x").asked
    one = Calibrated(rule="calibrated", features="auto", tries=("surface",))
    assert one.sets == [("surface",)]
    given = Calibrated(rule="calibrated", features=("surface", "length", "surface"))
    assert given.sets == [given.asked] == [("surface", "length")]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"features": ["surfaces"]}, "`surfaces` is no feature; did you mean `surface`?"),
        ({"features": ["surface"], "tries": ["length"]}, "tries: is read with features: auto alone"),
        ({"features": ["surface"], "reward_model": "x"}, "reward_model: no feature asks it"),
        ({"features": "auto", "tries": ["length"], "reward_model": "x"}, "reward_model: no feature asks it"),
    ],
)
def test_what_nothing_would_read_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Calibrated(rule="calibrated", **keys)
