"""Rewards by name, what they may return, and the text measures that come along."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.errors import SipoError
from sipo.rewards import load_reward, score
from sipo.rewards.text import distinct_words, reading_ease, words

MODULES = {
    "good_reward": "def brevity(prompts, responses):\n    return (-len(r) for r in responses)\nSCALE = 2\n",
    "needs_library": "import surely_not_installed\n",
    "broken_reward": "1 / 0\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_reward_is_found_by_name(modules: None) -> None:
    spec = "good_reward:brevity"
    assert score(load_reward(spec), spec, ["p", "p"], ["four", ""]) == [-4.0, 0.0]
    assert load_reward("sipo.rewards.text:words") is words


@pytest.mark.parametrize(
    ("spec", "problem", "way_out"),
    [
        ("words", "write it as module:function", "such as sipo.rewards.text:words"),
        ("good_reward:", "write it as module:function", "such as sipo.rewards.text:words"),
        ("god_reward:brevity", "no module named `god_reward`", "PYTHONPATH"),
        ("sipo.rewards.texts:words", "no module named `sipo.rewards.texts`", "check the spelling"),
        ("needs_library:f", "no module named `surely_not_installed`", "needs_library needs it, install it"),
        ("broken_reward:f", "importing broken_reward failed with ZeroDivisionError", "mend the module"),
        ("good_reward:brevty", "good_reward has no `brevty`", "did you mean `good_reward:brevity`?"),
        ("good_reward:xyz", "good_reward has no `xyz`", "name a function that it defines"),
        ("good_reward:SCALE", "`SCALE` is int", "name a function"),
    ],
)
def test_a_reward_that_cannot_be_loaded(spec: str, problem: str, way_out: str, modules: None) -> None:
    with pytest.raises(SipoError) as caught:
        load_reward(spec)
    line = str(caught.value)
    assert line.startswith(f"reward `{spec}`: ") and problem in line and way_out in line


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        (lambda prompts, responses: [1.0], "gave 1 numbers for 2 responses; return one for each"),
        (lambda prompts, responses: [1.0, math.nan], "gave nan for response 1; return a finite number"),
        (lambda prompts, responses: [-math.inf, math.nan], "gave -inf for response 0"),
        (lambda prompts, responses: [1, "2"], "gave '2' for response 1"),
        (lambda prompts, responses: [None, 1], "gave None for response 0"),
        (lambda prompts, responses: 1.0, "'float' object is not iterable; it must take (prompts, responses)"),
        (lambda prompts: [1.0], "positional argument"),
        (
            lambda prompts, responses: dict[str, float]()["key"],
            f"failed with KeyError: 'key' at {__file__} line",
        ),
    ],
)
def test_a_bad_score_names_the_function_and_the_first_index(reward: Callable[..., Any], problem: str) -> None:
    with pytest.raises(SipoError) as caught:
        score(reward, "mine:reward", ["p", "q"], ["a", "b"])
    assert str(caught.value).startswith("reward `mine:reward`: ") and problem in str(caught.value)


@settings(deadline=None)  # the first call imports textstat
@given(st.lists(st.text()))
def test_text_measures_are_finite_and_in_range(responses: list[str]) -> None:
    pytest.importorskip("textstat")
    prompts = [""] * len(responses)
    for distinct, total in zip(distinct_words(prompts, responses), words(prompts, responses), strict=True):
        assert 0 <= distinct <= total
    assert all(0 <= ease <= 100 for ease in score(reading_ease, "reading_ease", prompts, responses))


def test_text_measures_tell_detail_from_plain_wording() -> None:
    pytest.importorskip("textstat")
    plain = "The cat sat. It was warm. We had fun."
    hard = "Photosynthetic organisms utilise electromagnetic radiation, synthesising carbohydrates internally."
    assert distinct_words(["", "", ""], ["Go go GO!", "It's well-made.", ""]) == [1, 2, 0]
    assert words([""], ["Go go GO!"]) == [3]
    easy, difficult, nothing, marks = reading_ease([""] * 4, [plain, hard, "", " ?! "])
    assert easy > 90 and difficult == nothing == marks == 0


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textstat", None)
    spec = "sipo.rewards.text:reading_ease"
    with pytest.raises(SipoError, match=r"reading_ease`: .*textstat.*pip install 'sipo\[text\]'"):
        score(load_reward(spec), spec, ["p"], ["r"])
