"""`sipo compare`: runs, or anybody's JSON lines, over prompts and over seeds."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.pareto.across import across
from sipo.pareto.compare import compare
from sipo.pareto.indicators import mean_utility
from sipo.pareto.seeds import over_seeds_and_prompts, t_interval
from sipo.pareto.verdicts import mean_difference
from sipo.runs.pipeline import run

WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
MAXIMISE = {"good": True, "bad": False}
STEER = np.array([[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
"""More weight on either objective is better of it: `bad` falls as its share rises."""


def drawn(seed: int, lift: float = 0.0, prompts: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return STEER[:, None] + [lift, -lift] + rng.normal(scale=0.3, size=(3, prompts, 2))


def test_of_one_seed_it_is_the_comparison_of_a_run_with_what_prompts_leave_to_chance() -> None:
    rewards = {"mod": drawn(1), "sipo": drawn(2, 0.4)}
    found = across([rewards], WEIGHTS, MAXIMISE, times=200)
    expected = compare(rewards, WEIGHTS, MAXIMISE, found["reference_point"], times=200)
    assert found["methods"] == expected["methods"]
    difference = dict(found["differences"]["sipo - mod"])
    by_prompt = [mean_utility(each.swapaxes(0, 1), WEIGHTS, [True, False]) for each in rewards.values()]
    assert difference.pop("over_prompts") == pytest.approx(mean_difference(by_prompt[1] - by_prompt[0]).error)
    assert difference.pop("over_seeds") is None
    assert difference == expected["differences"]["sipo - mod"] and difference["is"] == "above"
    assert found["methods"]["mod"]["control"] == {"good": 1.0, "bad": 1.0}


def test_of_several_seeds_the_seed_is_the_unit() -> None:
    shifts = [0.1, 0.5, 0.3, 0.4]
    seeds = [{"mod": drawn(i), "sipo": drawn(i, shift)} for i, shift in enumerate(shifts)]  # the prompts' luck cancels
    found = across(seeds, WEIGHTS, MAXIMISE, times=50)
    difference = found["differences"]["sipo - mod"]
    assert difference["utility"] == pytest.approx(np.mean(shifts))
    assert (difference["utility"], *difference["utility_interval"]) == pytest.approx(t_interval(shifts))
    assert difference["over_seeds"] == pytest.approx(np.std(shifts, ddof=1))
    assert difference["over_prompts"] == pytest.approx(0, abs=1e-9) and difference["is"] == "above"
    point = found["methods"]["sipo"]["points"][0]
    means = [float(each["sipo"][0, :, 0].mean()) for each in seeds]
    assert (point["rewards"]["good"], *point["interval"]["good"]) == pytest.approx(t_interval(means))
    assert difference["detectable"] > 0 and found["seeds"] == 4


def test_what_is_alike_is_seldom_told_apart() -> None:
    said = [
        across([{"a": drawn(7 * t + s), "b": drawn(7 * t + s + 5000)} for s in range(3)], WEIGHTS, MAXIMISE, times=20)
        for t in range(40)
    ]
    assert sum(each["differences"]["b - a"]["is"] != "not shown" for each in said) <= 6


@pytest.mark.parametrize("own", [0.0, 0.3])
def test_seeds_share_the_luck_of_the_prompts_that_they_share(own: float) -> None:
    """Greedy answers of untrained models are the same at every seed, which makes no difference surer."""
    names = [[f"p{p}" for p in range(40)]] * 3
    false = 0
    for t in range(40):
        rng = np.random.default_rng(t)
        luck, chance = rng.normal(size=(2, 3, 40, 2)), rng.normal(scale=own, size=(3, 2, 3, 40, 2))
        seeds = [{"a": luck[0] + mine[0], "b": luck[1] + mine[1]} for mine in chance]
        found = across(seeds, WEIGHTS, MAXIMISE, prompts=names, times=20)["differences"]["b - a"]
        false += found["is"] != "not shown"
        low, high = found["utility_interval"]
        assert high - low > 2 * found["over_prompts"]
    assert false <= 6


def test_prompts_of_seeds_that_share_none_are_their_own_luck() -> None:
    rng = np.random.default_rng(0)
    apart = [shift + rng.normal(size=40) for shift in (0.1, 0.5, 0.3, 0.4)]
    names = [[f"{seed} {p}" for p in range(40)] for seed in range(4)]
    expected = mean_difference(np.array([each.mean() for each in apart]))
    assert over_seeds_and_prompts(apart, names) == over_seeds_and_prompts(apart) == expected
    same = over_seeds_and_prompts([apart[0]] * 4, [names[0]] * 4)  # as sure as one of them
    once = mean_difference(apart[0])
    assert (same.value, same.error, same.freedom) == pytest.approx((once.value, once.error, once.freedom))


def test_seeds_do_not_stand_for_prompts() -> None:
    seeds = [{"mod": drawn(s, prompts=5), "sipo": drawn(s + 10, 5.0, prompts=5)} for s in range(3)]
    names = [[f"p{p}" for p in range(5)]] * 3
    found = across(seeds, WEIGHTS, MAXIMISE, prompts=names, times=20)["differences"]["sipo - mod"]
    assert found["is"] == "not shown" and "fewer than 30" in found["because"]


def write(path: Path, rewards: np.ndarray, **more: Any) -> Path:
    lines = [
        {
            "prompt": f"p{p}",
            "response": "r",
            "weights": {"good": w[0], "bad": w[1]},
            "rewards": {"good": float(rewards[m, p, 0]), "bad": float(rewards[m, p, 1])},
            **more,
        }
        for m, w in enumerate(WEIGHTS.tolist())
        for p in range(rewards.shape[1])
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_anybody_s_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewards = {"mod": drawn(1), "sipo_&_co": drawn(2, 0.4)}
    files = [str(write(tmp_path / f"{name}.jsonl", each)) for name, each in rewards.items()]
    base = tmp_path / "base.jsonl"  # one point, and one prompt that the others lack
    lines = [{"prompt": f"p{p}", "rewards": {"good": 0.0, "bad": 1.0}} for p in range(41)]
    base.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["compare", *files, str(base), "--minimise", "bad"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == 1 and found["seeds"] == 1 and found["prompts"] == 40
    expected = across([{**rewards, "base": np.array([[[0.0, 1.0]] * 40])}], WEIGHTS, MAXIMISE, unsteered=["base"])
    mine, theirs = (each["differences"]["sipo_&_co - mod"] for each in (found, expected))
    for key in ("utility", "p", "detectable", "over_prompts", "is", "still"):
        assert mine[key] == (pytest.approx(theirs[key]) if isinstance(theirs[key], float) else theirs[key])
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "sipo_&_co less mod" in text and "above" in text and "1 prompt is left out" in text
    assert main([*asked, "--format", "markdown"]) == 0
    assert "| sipo\\_&amp;\\_co less mod |" in capsys.readouterr().out
    assert main([*asked, "--format", "latex"]) == 0
    latex = capsys.readouterr().out
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3 and r"sipo\_\&\_co" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {2 + 2, 8, 3}
    assert main([*asked, "--format", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (utility,) = [each for each in table if (each["of"], each["name"], each["measure"]) == ("method", "mod", "utility")]
    assert float(utility["value"]) == found["methods"]["mod"]["utility"]
    assert float(utility["high"]) == found["methods"]["mod"]["utility_interval"][1]


def test_seeds_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        str(write(tmp_path / f"{name}-{seed}.jsonl", drawn(seed, lift * (1 + seed)), method=name, seed=seed))
        for name, lift in (("mod", 0.0), ("sipo", 0.2))
        for seed in range(3)
    ]
    assert main(["compare", *files, "--minimise", "bad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["differences"]["sipo - mod"]
    assert found["utility"] == pytest.approx(0.4) and found["over_seeds"] == pytest.approx(0.2)


def test_weights_that_were_rounded_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"prompt": "p", "rewards": {"a": 1, "b": 2}, "method": method, "seed": None, "weights": {"a": a, "b": b}}
        for method, a, b in ((None, 1 / 3, 2 / 3), ("other", 0.333333, 0.666667))
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["compare", str(file), "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {name: len(each["points"]) for name, each in methods.items()} == {"mine": 1, "other": 1}


@pytest.fixture(scope="module")
def runs(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    settings = {**make_settings(folder), "methods": ["soups", "mod"], "evaluate": {"bootstrap": 20, "prompts": 3}}
    settings["data"]["max_response_tokens"] = 4
    return [
        run(
            parse_config({**settings, "seed": seed, "run_dir": str(folder / f"run-{seed}")}, "s"),
            until="compare",
            quiet=True,
        )
        for seed in (1, 2)
    ]


def test_runs(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fronts = json.loads((runs[0] / "compare" / "fronts.json").read_text())
    for name, mine in found["methods"].items():
        assert mine["utility"] == pytest.approx(fronts["methods"][name]["utility"])
        assert [p["rewards"] for p in mine["points"]] == [p["rewards"] for p in fronts["methods"][name]["points"]]
    assert main(["compare", *map(str, runs), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["seeds"] == 2 and set(both["methods"]) == {"soups", "mod"}, "runs of the same settings are seeds"


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["{}"], [], "a.jsonl line 1: has no `prompt`"),
        (['{"prompt": "p", "rewards": 3}'], [], "rewards is a number; give a number for each objective"),
        (['{"prompt": "p", "rewards": {"a": "x"}}'], [], "rewards: a is 'x'; give a finite number"),
        (['{"prompt": "p", "rewards": {"a": 1}, "weights": {"a": 0.5}}'], [], "the shares sum to 0.5, not to 1"),
        (
            ['{"prompt": "p", "rewards": {"a": 1}}', '{"prompt": "p", "rewards": {"b": 1}}'],
            [],
            "rewards are of b, not of a",
        ),
        (['{"prompt": "p", "rewards": {"a": 1}}'], ["--minimise", "b"], "--minimise: `b` is no objective; they are a"),
        (['{"prompt": "p", "rewards": {"a": 1}}'], ["--format", "word"], "--format word: is none; they are text"),
        (['{"prompt": "p", "rewards": {"a": 1%s}}' % ("0" * 400)], [], "rewards: a is 1000000"),
        (['[{"prompt": "p", "rewards": {"a": 1}}]'], [], "one a line (`jq -c .[]` does)"),
        (['{"prompt": "p", "rewards": {"a": 1}, "draw": "x"}'], [], "draw is a string; give a whole number"),
        (
            [
                '{"prompt": "p", "rewards": {"a": 1, "b": 1}}',
                '{"prompt": "p", "rewards": {"a": 1}, "weights": {"b": 1}}',
            ],
            [],
            "line 2: rewards are of a, not of a, b",
        ),
        (
            [f'{{"prompt": "p", "rewards": {{"a": 1}}{more}}}' for more in ("", ', "weights": {"a": 1}')],
            [],
            "line 2: has `weights`, and earlier lines of a have none",
        ),
        (
            [f'{{"prompt": "p", "rewards": {{"a": 1}}{more}}}' for more in (', "weights": {"a": 1}', "")],
            [],
            "line 2: has no `weights`, and earlier lines of a have some",
        ),
        (
            [
                f'{{"prompt": "p", "rewards": {{"a": 1}}, "method": "{method}", "seed": {seed}}}'
                for method, seed in (("one", 7), ("two", 7), ("one", 8))
            ],
            [],
            "two: has answers of seed 7, and none of seed 8",
        ),
        (['{"prompt": "p", "rewards": {"a": null}}'], [], "seed 0: no prompt is answered by a at all of their weights"),
        ([], [], "holds no answers"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    lines: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert main(["compare", str(tmp_path / "a.jsonl"), *options]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
