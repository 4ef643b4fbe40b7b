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
from sipo.message import Message
from sipo.rewards import Item, check_rewards, score_responses, signed_rewards
from sipo.rewards.function import load_function
from sipo.rewards.objective import Objective
from sipo.rewards.text import distinct_words, reading_ease, sentiment, words

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


def score(spec: str, responses: list[str], prompt: str = "p") -> list[float]:
    items = [Item((Message("user", prompt),), response) for response in responses]
    return score_responses([Objective(name="it", better="more", reward=spec)], items)["it"]


def test_a_reward_is_found_by_name(modules: None) -> None:
    assert score("good_reward:brevity", ["four", ""]) == [-4.0, 0.0]
    assert load_function("sipo.rewards.text:words") is words


def test_functions_read_a_chat_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("sipo.rewards.text.words", lambda prompts, responses: [seen.append(p) or 0 for p in prompts])
    chat = (Message("system", "s"), Message("user", "u"))
    objective = Objective(name="it", better="more", reward="sipo.rewards.text:words")
    score_responses([objective], [Item(chat, "r"), Item(chat[1:], "r")])
    assert seen == ["system: s\nuser: u", "u"]


def test_each_objective_has_its_numbers_and_one_without_a_reward_none() -> None:
    names = {"long": "sipo.rewards.text:words", "varied": "sipo.rewards.text:distinct_words", "none": None}
    objectives = [Objective(name=name, better="b", reward=spec) for name, spec in names.items()]
    items = [Item((Message("user", "p"),), text) for text in ("go go", "", "go")]
    assert score_responses(objectives, items) == {"long": [2, 0, 1], "varied": [1, 0, 1]}
    assert score_responses(objectives, []) == {"long": [], "varied": []}


def test_signed_rewards_are_all_to_be_maximised() -> None:
    objectives = [
        Objective(name="brief", better="b", reward="sipo.rewards.text:words", direction="minimize"),
        Objective(name="varied", better="b", reward="sipo.rewards.text:distinct_words"),
    ]
    items = [Item((Message("user", "p"),), text) for text in ("go go", "", "go")]
    assert signed_rewards(objectives, items).tolist() == [[-2, 1], [0, 0], [-1, 1]]


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
        check_rewards([Objective(name="it", better="more", reward=spec)])
    line = str(caught.value)
    assert line.startswith(f"reward `{spec}`: ") and problem in line and way_out in line


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        (lambda prompts, responses: [1.0], "gave 1 number for 2 responses; return one for each"),
        (lambda prompts, responses: [1.0, math.nan], "gave nan for the response 'b' to 'p'; return a finite number"),
        (lambda prompts, responses: [-math.inf, math.nan], "gave -inf for the response 'a'"),
        (lambda prompts, responses: [-1e100, 1e308], "gave 1e+308 for the response 'b' to 'p'; return a finite number"),
        (lambda prompts, responses: [1, "2"], "gave '2' for the response 'b'"),
        (lambda prompts, responses: [None, 1], "gave None for the response 'a'"),
        (lambda prompts, responses: 1.0, "'float' object is not iterable; it must take (prompts, responses)"),
        (lambda prompts: [1.0], "positional argument"),
        (
            lambda prompts, responses: dict[str, float]()["key"],
            f"failed with KeyError: 'key' at {__file__} line",
        ),
    ],
)
def test_a_bad_score_names_the_function_and_the_first_response(
    reward: Callable[..., Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipo.rewards.text.words", reward)
    with pytest.raises(SipoError) as caught:
        score("sipo.rewards.text:words", ["a", "b"])
    assert str(caught.value).startswith("reward `sipo.rewards.text:words`: ") and problem in str(caught.value)


@settings(deadline=None)  # the first call imports textstat
@given(st.lists(st.text()))
def test_text_measures_are_finite_and_in_range(responses: list[str]) -> None:
    prompts = [""] * len(responses)
    for distinct, total in zip(distinct_words(prompts, responses), words(prompts, responses), strict=True):
        assert 0 <= distinct <= total
    assert all(0 <= ease <= 100 for ease in reading_ease(prompts, responses))
    assert all(-1 <= kindness <= 1 for kindness in sentiment(prompts, responses))


def test_text_measures_tell_detail_from_plain_wording() -> None:
    plain = "The cat sat. It was warm. We had fun."
    hard = "Photosynthetic organisms utilise electromagnetic radiation, synthesising carbohydrates internally."
    assert distinct_words(["", "", ""], ["Go go GO!", "It's well-made.", ""]) == [1, 2, 0]
    assert words([""], ["Go go GO!"]) == [3]
    easy, difficult, nothing, marks = reading_ease([""] * 4, [plain, hard, "", " ?! "])
    assert easy > 90 and difficult == nothing == marks == 0


def test_sentiment_tells_kind_from_hostile() -> None:
    kind, hostile, nothing = sentiment([""] * 3, ["Thank you, I love it!", "You are stupid and awful.", ""])
    assert kind > 0.5 and hostile < -0.5 and nothing == 0


@pytest.mark.parametrize(
    ("module", "name"), [("textstat", "reading_ease"), ("vaderSentiment.vaderSentiment", "sentiment")]
)
def test_the_missing_extra_is_named(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SipoError, match=rf"{name}`: .*{module}.*pip install 'textstat\S+ 'vadersentiment"):
        score(f"sipo.rewards.text:{name}", ["r"])
