"""A judge that fails in every way it can, now and then: the rewards are those of one that never does."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import endpoint
import pytest
from chance import Chance, undisturbed
from damage import results_of
from endpoint import Answer, Server, response_of
from whole import Whole

server = endpoint.server
TIMEOUT = 1.0
"""Seconds that an answer may take."""


def judge(request: dict[str, Any], before: int) -> Answer:
    """It grades by what is written alone."""
    names = request["response_format"]["json_schema"]["schema"]["required"]
    grade = 1 + len(response_of(request)) % 10
    return 200, json.dumps(dict.fromkeys(names, grade))


def failing(rng: random.Random, chance: Chance, share: float) -> Callable[[dict[str, Any], int], Answer]:
    """Of the first tries for a response this share fails, in one of these ways."""

    def slow() -> Answer:
        time.sleep(2 * TIMEOUT)
        return 200, "too late"

    def gone() -> Answer:
        raise ConnectionResetError

    ways: list[Callable[[], Answer]] = [
        slow,
        gone,
        lambda: (429, {"error": {"message": "slow down"}}),
        lambda: (500, b"<html>oops"),
        lambda: (503, {}),
        lambda: (200, b"\xff\x00 no JSON"),
        lambda: (200, {"choices": []}),
        lambda: (200, "I would rather not say."),
        lambda: (200, '{"grade": "NaN"}'),
    ]

    def behave(request: dict[str, Any], before: int) -> Answer:
        if before < 2 and rng.random() < share:
            chance.drawn, chance.struck = chance.drawn + 1, chance.struck + 1
            return rng.choice(ways)()
        return judge(request, before)

    return behave


@pytest.fixture
def judged(make_whole: Callable[..., Whole], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Whole:
    """A run with a judge that never fails."""
    server.behave = judge
    reward = {"judge": server.url, "model": "tiny", "retries": 4, "timeout": TIMEOUT}
    objectives = [
        {"name": "detail", "better": "It says more.", "reward": reward},
        {"name": "brevity", "better": "It says less.", "reward": "sipo.rewards.text:words", "direction": "minimize"},
    ]
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "quiet"))
    align = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    return make_whole(
        "judged", methods=["base", "mod"], objectives=objectives, align=align, evaluate={"bootstrap": 20, "prompts": 6}
    )


@pytest.mark.faults(8)
def test_a_run(judged: Whole, server: Server, tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch) -> None:
    """a judge that answers nothing in time, breaks off, answers 429, 500, 503, rubbish | `sipo run` | the rewards of a
    judge that never fails
    """
    for place in chance.trials(tmp_path):
        monkeypatch.setenv("SIPO_CACHE", str(place / "cache"))
        server.requests.clear()
        server.behave = failing(chance.rng, chance, 0.4)
        undisturbed(judged.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(judged.run)


@pytest.mark.faults(3)
def test_a_run_that_is_killed(
    judged: Whole, server: Server, tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while a judge is asked, which fails now and then | `sipo run` | the rewards of a judge that never fails"""
    for place in chance.trials(tmp_path):
        monkeypatch.setenv("SIPO_CACHE", str(place / "cache"))
        server.requests.clear()
        server.behave = failing(chance.rng, Chance("", 0), 0.1)
        chance.disturbed(judged.into(place / "run"), place / "log", judged.seconds, 3, start=judged.start)
        assert results_of(place / "run") == results_of(judged.run)
