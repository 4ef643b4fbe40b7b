"""How long a run will take: rates by a clock that is known, and what is foreseen held against what a run computes."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sipo.runs.foresight
from sipo.bank import Bank
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.declare.work import Work
from sipo.estimate.pace import KINDS, Pace, measured, rate
from sipo.graph.build import Graph
from sipo.runs.foresight import Course, Foresight, crowded, foresee
from sipo.runs.pipeline import run
from sipo.task import Task


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_of_the_calls_that_fill_the_time() -> None:
    clock, calls = Clock(), []

    def call() -> None:
        calls.append(clock.now)
        clock.now += 0.75

    assert rate(call, 30, 0, clock) == 40 and len(calls) == 1, "one call in no time at all"
    calls.clear()
    assert rate(call, 30, 2.0, clock) == 40 and len(calls) == 3
    assert rate(lambda: None, 5, 0, clock) > 1e6, "a clock that stands still divides nothing by zero"


def test_each_kind_of_work_has_its_own_rate() -> None:
    work = Work(3, 4, 5, reading=100, decoding=200, scoring=300, training=400)
    assert Pace(10, 20, 30, 40).seconds(work) == 40
    assert Pace.of(10).seconds(work) == work.tokens / 10 == 100
    assert Pace(10, 20, 30, 40).seconds(work + work.times(2)) == 120
    assert (work + work.times(2)) == work.times(3) and work.times(3).steps == 9
    assert "10 tokens a second" in str(Pace.of(10)) and "decoding 2,000" in str(Pace(10, 2000, 3, 4))


@pytest.fixture(scope="module")
def task(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(parse_config(make_settings(tmp_path_factory.mktemp("pace")), "here"))


def by_tokens(task: Task) -> Callable[[], float]:
    """A clock on a machine that computes one token a second."""
    return lambda: float(task.bank.computed)


def test_what_is_measured_is_what_goes_through_the_model(task: Task) -> None:
    state = torch.get_rng_state()
    for seconds in (0.0, 2000.0):
        pace = measured(task, seconds, by_tokens(task))
        assert pace.decoding == pytest.approx(1.0, rel=0.1), "a few prompts are read anew"
        assert pace.training == pytest.approx(2.0, rel=0.5), "a step is worth two forwards, and one is seen"
        assert 0.5 < pace.reading <= 3 and 0.5 < pace.scoring <= 3, "padding takes, sharing gives"
    assert torch.equal(torch.get_rng_state(), state) and not task.bank.policies


@pytest.mark.parametrize("words", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"])
def test_what_memory_holds_is_measured(task: Task, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A look ahead ends no run: fewer rows are measured, and where not even one fits, none."""
    compute, most, refused = Bank.hidden_states, 1, list[int]()

    def holding(bank: Bank, *points: Any, **given: Any) -> Any:
        if given["input_ids"].numel() > most:
            refused.append(given["input_ids"].numel())
            raise (torch.OutOfMemoryError if "CUDA" in words else RuntimeError)(words)
        return compute(bank, *points, **given)

    measured(task, 0.0)  # what is proven once
    monkeypatch.setattr(Bank, "hidden_states", holding)
    foreseen = foresee(task, list(Graph(task.config)))
    assert refused and foreseen.pace is None and foreseen.works
    refused.clear()
    most = 150
    assert measured(task, 2000.0, by_tokens(task)).decoding > 0
    assert refused and not task.bank.policies


def test_logits_that_are_not_finite_end_no_look_ahead(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decodes them says so, with the prompt."""
    monkeypatch.setattr("sipo.decoding.batch.mix_logits", lambda logits, _: logits[:, 0] * float("nan"))
    assert measured(task, 0.0).decoding > 0


def test_what_is_foreseen_is_an_upper_bound_and_a_near_one(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = foresee(task, list(Graph(task.config)), by_tokens(task)).seconds
    assert "at most" in capsys.readouterr().out
    folder = run(task.config, quiet=True)
    took = sum(json.loads(file.read_text())["tokens"] for file in folder.rglob("stage.json"))
    assert seconds is not None and 0.8 * took < seconds < 3 * took


def test_what_asks_no_model_or_another_engine_is_not_foreseen(task: Task) -> None:
    silent = [stage for stage in Graph(task.config) if not stage.peak]
    assert silent and foresee(task, silent, by_tokens(task)).seconds is None


class Ticks:
    def __init__(self) -> None:
        self.seconds = self.tokens = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_how_far_a_run_is_goes_by_cost_and_every_stage_is_all_of_its_own() -> None:
    works = {"align": Work(training=1000), "answers/mod": Work(decoding=200), "compare": Work()}
    ticks = Ticks()
    course = Course(Foresight(works, Pace(1000, 10, 1000, 100), worth=2), lambda: ticks.tokens, ticks)
    assert course.share == 0 and course.left is None
    course.begin("align")
    ticks.tokens, ticks.seconds = 250, 40
    foreseen = course.foreseen.seconds
    assert foreseen is not None and course.share == pytest.approx(5 / 30)
    assert course.left == pytest.approx((40 + 0.1 * foreseen) / (5 / 30 + 0.1) * 25 / 30)
    course.begin("answers/mod")
    assert course.share == pytest.approx(10 / 30), "it had fewer tokens than were foreseen"
    ticks.tokens += 500
    assert course.share == pytest.approx(1), "or more"
    course.begin("compare")
    assert course.share == pytest.approx(1) and str(course) == "run 100% of at most 0.0012 M tokens"


def test_what_is_left_is_what_was_foreseen_before_a_run_has_a_pace_of_its_own() -> None:
    """Units of a stage come late and together: at first nothing seems to move."""
    ticks = Ticks()
    work, pace = {"a": Work(training=10_000)}, Pace(100, 100, 100, 100)
    course = Course(Foresight(work, pace), lambda: ticks.tokens, ticks)
    foreseen = course.foreseen.seconds
    assert foreseen is not None
    course.begin("a")
    ticks.tokens, ticks.seconds = 1, 40
    assert course.share < 1e-3 and course.left is not None and course.left < 6 * foreseen
    ticks.tokens, ticks.seconds = 5_000, 2 * foreseen
    assert course.left == pytest.approx(2 * foreseen, rel=0.2), "its own pace counts by then"
    unknown = Course(Foresight(work, None), lambda: ticks.tokens, ticks)
    unknown.begin("a")
    ticks.tokens, ticks.seconds = 5_100, ticks.seconds + 40
    assert unknown.share < 0.1 and unknown.left is None


def test_where_the_pace_is_not_known_tokens_are_what_counts() -> None:
    ticks = Ticks()
    course = Course(Foresight({"a": Work(training=30), "b": Work(decoding=10)}, None), lambda: ticks.tokens, ticks)
    course.begin("a")
    course.begin("b")
    assert course.share == pytest.approx(0.75)


def test_a_run_says_so_and_how_right_it_was(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sipo.runs.foresight, "measured", lambda *_: Pace.of(100.0))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**settings, "methods": ["base"]}))
    assert main(["run", str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "time       at most" in text and "at 100 tokens a second" in text
    assert re.search(r"took \d+ s; at most", text) and text.index("align") > text.index("time  ")
    assert main(["run", str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run")]) == 0
    assert "at most" not in capsys.readouterr().out, "nothing is left to do"


def test_where_others_hold_the_cores_one_thread_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (50.0, 1.0, 1.0), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert "load 50.0 on 2" in crowded(2) and "OMP_NUM_THREADS=1" in crowded(2)
    assert crowded(1) == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 50.0, 50.0))
    assert crowded(2) == ""


def test_check_measures_when_it_is_asked(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sipo.check.measured", lambda _: Pace(1000, 100, 1000, 500))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml"), "--measure"]) == 0
    text = capsys.readouterr().out
    assert all(f"{kind} " in text.split(" hours at so many")[1] for kind in KINDS)
    assert main(["check", str(tmp_path / "run.yaml"), "--measure", "--set", "policies=full", "--set", "lora={}"]) == 2
    assert "--measure" in capsys.readouterr().err
