"""What a reward model is worth on what it has not seen: shares counted by hand, intervals against scipy's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from small import NAMES, compared, scored

from sipo.rewards.accuracy import Accuracy, agreement, effective_labels, held_out_accuracy, wilson_interval
from sipo.rewards.targets import TARGETS


def test_responses_to_a_prompt_are_compared_by_their_scores() -> None:
    examples = [
        scored("q", "aa", sunny=3.0, dark=1.0),
        scored("p", "b", sunny=9.0),
        scored("q", "bbb", sunny=1.0, dark=None),
        scored("q", "c", sunny=3.0, dark=2.0),
        scored("q", "aa ", sunny=0.0, dark=0.0),
    ]
    found = TARGETS["scores"].comparisons(examples)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [
        (0, 2),
        (0, 3),
        (2, 3),
        (2, 4),
        (3, 4),
    ]
    assert found.signs.tolist() == [[-1, 0], [0, 1], [1, 0], [-1, 0], [-1, -1]]
    assert found.longer.tolist() == [1, -1, -2, 0, 2] and len(set(found.prompts)) == 1


def test_figures_against_counting_by_hand() -> None:
    train = [compared(f"q{i}", "aa", "b", sunny=1) for i in range(2)] + [compared("q", "a", "bb", sunny=0)]
    held_out = [
        compared("x", "aa", "b", sunny=1, dark=1),
        compared("y", "a", "bb", sunny=0),
        compared("z", "a", "b", sunny=0),
    ]
    rewards = torch.tensor([[0, 3], [1, 2], [5, 0], [7, 0], [1, 0], [1, 0]], dtype=torch.float32)
    sunny, dark = held_out_accuracy("pairs", rewards, held_out, train, NAMES)
    assert (sunny.labels, sunny.model) == (3, pytest.approx((1 + 0 + 0.5) / 3)), "an even call is half right"
    assert sunny.majority == pytest.approx(1 / 3), "1 is usual in training"
    assert sunny.length == pytest.approx((1 + 1 + 0.5) / 3), "shorter is better in training"
    assert dark == Accuracy("dark", 1, 0.0, dark.interval, 0.0, 0.5), "without training labels the longer one is called"
    none = Accuracy("sunny", 0, None, None, None, None)
    assert held_out_accuracy("pairs", torch.zeros(0, 2), [], train, NAMES)[0] == none
    assert agreement(torch.ones(2), torch.zeros(2)) is None


@pytest.mark.parametrize(("right", "labels"), [(22, 40), (0, 7), (7, 7), (1, 2)])
def test_the_interval_is_wilsons_where_labels_are_independent(right: int, labels: int) -> None:
    calls = torch.tensor([1.0] * right + [0.0] * (labels - right))
    expected = binomtest(right, labels).proportion_ci(method="wilson")
    assert wilson_interval(calls, [str(i) for i in range(labels)]) == pytest.approx((expected.low, expected.high))


CALLS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 1.0])), min_size=1, max_size=12)


@given(CALLS)
def test_labels_said_again_tell_nothing_new(calls: list[tuple[str, float]]) -> None:
    prompts, right = [prompt for prompt, _ in calls], torch.tensor([value for _, value in calls])
    once = wilson_interval(right, prompts)
    assert -1e-9 <= once[0] <= float(right.mean()) + 1e-6 and float(right.mean()) - 1e-6 <= once[1] <= 1
    assert effective_labels(right, prompts) <= len(calls)
    of_a_prompt_each = [str(place) for place in range(len(calls))]
    again = wilson_interval(right.repeat(3), of_a_prompt_each * 3)
    assert again == pytest.approx(wilson_interval(right, of_a_prompt_each), abs=1e-6)


def test_labels_that_go_together_widen_the_interval_and_even_calls_do_not_narrow_it() -> None:
    right = torch.tensor([1.0, 1, 1, 0, 0, 0])
    assert effective_labels(right, list("aaabbb")) == pytest.approx(2)
    assert effective_labels(right, list("abcabc")) == 6
    assert effective_labels(torch.tensor([0.5, 0.5, 1.0]), list("abc")) == 3
