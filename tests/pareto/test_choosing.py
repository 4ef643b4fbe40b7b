"""Choosing a point of a front: the mathematics against brute force, and the command on a finished run."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.disk.tables import read_json
from sipo.pareto.choosing import bends, equal_gain, knee, shortfall, simultaneous_intervals, tilted, within
from sipo.runs.pipeline import run
from sipo.weights import simplex_lattice

LARGER = [True, False]
FRONT = np.array([[0.0, 1.0], [0.8, 2.0], [1.0, 6.0]])  # of the second, smaller is better


def test_bounds_are_in_each_objective_s_own_direction() -> None:
    assert within(FRONT, np.array([0.5, np.nan]), LARGER).tolist() == [False, True, True]
    assert within(FRONT, np.array([0.5, 3.0]), LARGER).tolist() == [False, True, False]
    assert shortfall(FRONT, np.array([0.5, 3.0]), LARGER) == pytest.approx([0.5, 0.0, 0.6])
    assert knee(FRONT, LARGER) == 1
    assert equal_gain(FRONT, np.array([-1.0, 7.0]), LARGER) == 1


@given(st.integers(0, 10**6))
@example(175)  # no point gains in the first objective
def test_a_choice_is_the_same_in_other_units_and_directions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, base, bounds = rng.normal(size=(5, 3)), rng.normal(size=3) - 2, rng.normal(size=3)
    scale, larger = np.array([2.0, 0.5, 8.0]), [True, True, True]
    turned, smaller = np.array([1, -1, 1]) * scale, [True, False, True]
    assert knee(means, larger) == knee(means * turned, smaller)
    assert equal_gain(means, base, larger) == equal_gain(means * turned, base * turned, smaller)
    assert (within(means, bounds, larger) == within(means * turned, bounds * turned, smaller)).all()
    assert shortfall(means, bounds, larger) == pytest.approx(shortfall(means * turned, bounds * turned, smaller))


def test_a_knee_is_one_beyond_the_noise() -> None:
    """A front on a line has none, whatever noise makes of it; one that bends has, where there are prompts enough."""
    line, bent = np.array([[0.0, 4.0], [0.5, 2.0], [1.0, 0.0]]), np.array([[0.0, 4.0], [0.7, 2.8], [1.0, 0.0]])
    sign, said = np.array([1, -1]), []
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(size=(3, 60, 2)) * [0.25, 1.0]
        rewards = (line[:, None] + noise) * sign
        said.append(bends(knee(rewards.mean(axis=1), LARGER), rewards, LARGER))
        rewards = (bent[:, None] + noise) * sign
        assert bends(1, rewards, LARGER) and not bends(0, rewards, LARGER), "an end is no knee"
        assert not bends(1, rewards[:, :20], LARGER), "few prompts show none"
    assert sum(said) <= 5


@given(st.integers(0, 10**6))
def test_what_reweighting_can_reach_is_what_mixtures_of_samples_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, bounds = rng.normal(size=(4, 2)), rng.normal(size=2) * 0.7
    slack = min(np.clip(bounds - np.array(simplex_lattice(4, 40)) @ samples, 0, None).sum(axis=1))
    tilt = tilted(samples[:, None], bounds, [True, True])
    if slack == 0:
        assert tilt is not None
    elif slack > 0.1:
        assert tilt is None
    assert tilted(samples[:, None], np.array([np.nan, np.nan]), [True, True]) == (pytest.approx([0, 0]), 0)


def test_prompts_cannot_be_reweighted() -> None:
    """An answer to an easy prompt is none to a hard one."""
    easy, hard = np.full((3, 1, 1), 1.0), np.full((3, 1, 1), 0.0)
    samples = np.concatenate([easy, hard], axis=1)
    assert tilted(samples, np.array([0.5]), [True]) is not None
    assert tilted(samples, np.array([0.6]), [True]) is None


@given(st.integers(0, 10**6))
def test_the_tilt_meets_the_bounds_and_no_reweighting_that_does_is_nearer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, sign = rng.normal(size=(5, 8, 2)), np.array([1, -1])
    shares = rng.dirichlet(np.ones(5), size=8).T[..., None]  # of some reweighting, whose means are the bounds
    bounds = (shares * samples).sum(axis=0).mean(axis=0)
    tilt = tilted(samples, bounds, LARGER)
    assert tilt is not None
    other = float((shares * np.log(5 * shares)).sum(axis=(0, 2)).mean())
    assert tilt.divergence <= other + 1e-6
    turned = tilted(samples * sign * [3, 0.1], bounds * sign * [3, 0.1], [True, True])
    assert turned is not None and turned.divergence == pytest.approx(tilt.divergence, abs=1e-4)
    assert (bounds * sign <= samples.mean(axis=(0, 1)) * sign).all() == (tilt.weights_N.sum() < 0.5)
    assert tilt.weights_N.min() >= 0 and tilt.weights_N.sum() in (pytest.approx(0), pytest.approx(1))


def test_simultaneous_intervals_hold_all_means_at_once() -> None:
    rng, held, single = np.random.default_rng(3), 0, 0
    for trial in range(150):
        rewards = rng.normal(size=(6, 60, 2))
        low, high = simultaneous_intervals(rewards, 300, trial)
        held += bool(((low <= 0) & (high >= 0)).all())
        single += bool((low[0, 0] <= 0) & (high[0, 0] >= 0))
    assert held >= 0.9 * 150 and single > held
    constant = np.ones((2, 60, 2))
    low, high = simultaneous_intervals(constant, 50, 0)
    assert (low == 1).all() and (high == 1).all()


@pytest.mark.parametrize("prompts", [3, 10, 30])
def test_few_prompts_promise_little(prompts: int) -> None:
    rng, held = np.random.default_rng(4), 0
    for trial in range(100):
        low, high = simultaneous_intervals(rng.normal(size=(4, prompts, 2)), 200, trial)
        held += bool(((low <= 0) & (high >= 0)).all())
    assert held >= 90
    low, high = simultaneous_intervals(rng.normal(size=(2, 1, 2)), 50, 0)
    assert (low == -np.inf).all() and (high == np.inf).all(), "a single one nothing"


def test_a_ceiling_on_these_prompts_is_none_on_all() -> None:
    """Thirty harmless answers of thirty may come of a model that harms in one of thirty."""
    rng, held = np.random.default_rng(5), 0
    for trial in range(100):
        rewards = (rng.random((6, 30, 1)) < 0.967).astype(float)
        low, high = simultaneous_intervals(rewards, 200, trial)
        held += bool(((low <= 0.967) & (high >= 0.967)).all())
    assert held >= 90


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = make_settings(tmp_path_factory.mktemp("choosing"))
    return run(parse_config({**settings, "methods": ["base", "soups", "mod"]}, "settings"), quiet=True)


def test_the_point_that_fits_is_chosen_and_its_commands_work(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    methods = read_json(finished / "compare" / "fronts.json")["methods"]
    points = [(name, p) for name in ("soups", "mod") for p in methods[name]["points"]]
    best = max(point["rewards"]["detail"] for _, point in points)
    assert main(["choose", str(finished), "--maximise", "detail", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["rewards"]["detail"] == pytest.approx(best)
    same = next(p for name, p in points if name == found["method"] and p["weights"] == found["weights"])
    assert found["rewards"] == pytest.approx(same["rewards"])
    assert all(found["interval"][n][0] <= same["interval"][n][0] + 1e-9 for n in found["rewards"]), "wider than alone"
    for name, sign in (("detail", 1), ("brevity", -1)):
        gain, (low, high) = found["gain"][name], found["gain_interval"][name]
        assert low <= gain <= high and gain == pytest.approx(sign * (found["rewards"][name] - found["base"][name]))
    assert main(["choose", str(finished), "--minimise", "brevity", "--method", "soups", "--at-least", "detail=-9"]) == 0
    said = capsys.readouterr().out
    for line in said.splitlines():
        if line.startswith(("ask it", "take it")):
            words = shlex.split(line[9:], comments=True)
            assert main(words[1:]) == 0
    assert (tmp_path / "chosen" / "adapter_config.json").exists() and "over base" in said


def test_where_nothing_fits_the_nearest_is_told(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["choose", str(finished), "--at-least", "detail=1e6", "--knee"]) == 0
    said = capsys.readouterr().out
    assert "no measured point fits" in said and "no reweighting of the 3 answers that base gave" in said
    assert main(["choose", str(finished), "--equal-gain"]) == 0


def test_where_nothing_is_gained_nothing_is_recommended(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts show no gain of any point, and no knee; what is asked for by name is answered all the same."""
    monkeypatch.chdir(finished.parent)
    for option, why in (("--equal-gain", "where the least gain is most"), ("--knee", "the knee of the front")):
        assert main(["choose", str(finished), option]) == 0
        said = capsys.readouterr().out
        assert said.startswith("nothing is recommended: even ") and f", {why}, shows no gain over base" in said
        (line,) = [line for line in said.splitlines() if line.startswith("choose ")]
        assert "ask it" not in said and "take it" not in said
        assert main(shlex.split(line)[2:]) == 0 and "ask it" in capsys.readouterr().out
    assert main(["choose", str(finished), "--equal-gain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gained"] == []
    for one, other in (("--maximise=detail", "--maximize=detail"), ("--minimise=brevity", "--minimize=brevity")):
        told = [main(["choose", str(finished), each, "--json"]) or capsys.readouterr().out for each in (one, other)]
        assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what is best with one of --maximise"),
        (["--knee", "--equal-gain"], "say what is best with one of"),
        (["--maximise", "detial"], "--maximise: `detial` is no objective of the run; they are detail, brevity"),
        (["--maximise", "brevity"], "--maximise: of `brevity` smaller is better; write --minimise"),
        (["--knee", "--at-least", "brevity=3"], "--at-least: of `brevity` smaller is better; write --at-most"),
        (["--knee", "--at-least", "detail=many"], "--at-least: detail=many is no number"),
        (
            ["--knee", "--method", "base"],
            "--method base: has no weights that were measured; those that have are soups, mod",
        ),
    ],
)
def test_what_cannot_be_chosen_is_one_line(
    finished: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["choose", str(finished), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
