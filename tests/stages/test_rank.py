"""Runs without rewards: what labels say of the policies, held against the finished run's own log-probabilities."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sipo
from sipo.check import check
from sipo.cli.choose import choose, wish_of
from sipo.cli.compare import compare
from sipo.cli.main import main
from sipo.config import Config
from sipo.config.file import dump_config, load_config, parse_config
from sipo.declare.parts import RANKINGS, RESPONSES
from sipo.disk.tables import read_json
from sipo.engines.batched import Mixed
from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.records import Ranking
from sipo.report.measure import CAVEAT, LABELS, REWARDS, measure_of
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.stages.rank import labelled_rows
from sipo.studies.ground import Ground
from sipo.task import Task

NAMES = ("detail", "brevity", "tone")
METHODS = ["base", "policies", "soups", "mod", "best-of-n"]


def unrewarded(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    objectives = [{"name": name, "better": f"More {name}."} for name in NAMES]
    return {**settings, "objectives": objectives, "methods": METHODS, **more}


def copied(settings: dict[str, Any], to: Path) -> dict[str, Any]:
    """The same run elsewhere, to be gone on with."""
    shutil.copytree(settings["run_dir"], to / "run")
    return {**settings, "run_dir": str(to / "run")}


def rewarded(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same run, some of whose objectives count words, fewer being better."""
    words = {"reward": "sipo.rewards.text:words", "direction": "minimize"}
    return {
        **settings,
        "objectives": [{**each, **(words if each["name"] in names else {})} for each in settings["objectives"]],
    }


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = unrewarded(make_settings(tmp_path_factory.mktemp("labels")))
    settings["data"]["test"] = 0.5
    settings["evaluate"]["prompts"] = 10
    run(parse_config(settings, "settings"), quiet=True)
    return settings


@pytest.fixture(scope="module")
def config(finished: dict[str, Any]) -> Config:
    return parse_config(finished, "settings")


@pytest.fixture(scope="module")
def rankings(config: Config) -> list[Ranking]:
    outputs = Outputs(config.run_dir, config)
    return [each for name in METHODS[:-1] for each in outputs.read(f"ranked/{name}", RANKINGS)]


@pytest.fixture(scope="module")
def fronts(config: Config) -> dict[str, Any]:
    return read_json(config.run_dir / "compare" / "fronts.json")


def test_a_margin_is_what_the_finished_run_s_own_log_probabilities_say(config: Config, rankings: list[Ranking]) -> None:
    handle, task = sipo.open(config.run_dir), Task(config)
    rows = labelled_rows(task)
    asked = [list(row.prompt) for row in rows for _ in row.responses]
    texts = [text for row in rows for text in row.responses]
    base = np.reshape(handle.at(method="base").logprobs(asked, texts), (-1, 2))
    for method, weights in {(each.method, str(each.weights)): each for each in rankings}:
        mine = [each for each in rankings if (each.method, str(each.weights)) == (method, weights)]
        ratios = np.reshape(handle.at(mine[0].weights, method).logprobs(asked, texts), (-1, 2)) - base
        assert [each.row for each in mine] == [row.id for row in rows]
        assert [each.margin for each in mine] == pytest.approx(ratios[:, 1] - ratios[:, 0], abs=2e-3)
        for each, row in zip(mine, rows, strict=True):
            right = {name: (1 + np.sign(each.margin) * row.sign(name)) / 2 for name in NAMES}
            assert each.agreed == {name: right[name] if row.sign(name) else None for name in NAMES}
    assert {each.margin > 0 for each in rankings if each.method == "mod"} == {True, False}


def test_no_interval_of_an_accuracy_is_beyond_what_can_be() -> None:
    """As where labels are missing, whose resampled means may lie outside."""
    point = {"weights": None, "rewards": {"detail": 0.9}, "interval": {"detail": (0.7, 1.1)}}
    found = {"methods": {"mod": {"utility_interval": (-0.1, 0.6), "points": [point]}}, "prompts": 3}
    clipped = LABELS.within_ends(found)
    assert clipped["methods"]["mod"]["utility_interval"] == (0.0, 0.6) and clipped["prompts"] == 3
    assert clipped["methods"]["mod"]["points"][0]["interval"] == {"detail": (0.7, 1.0)}
    assert REWARDS.within_ends(found) == found, "a reward has no ends that are known"


def test_fronts_are_the_shares_of_labels_that_agree(fronts: dict[str, Any], rankings: list[Ranking]) -> None:
    assert fronts["measure"] == "labels" and fronts["unranked"] == ["best-of-n"]
    assert list(fronts["methods"]) == ["base", *(f"policy:{name}" for name in NAMES), "soups", "mod"]
    for method, front in fronts["methods"].items():
        for point in front["points"]:
            mine = [each for each in rankings if each.method == method and each.weights == point["weights"]]
            for name in NAMES:
                labelled = [each.agreed[name] for each in mine if each.agreed[name] is not None]
                assert point["rewards"][name] == pytest.approx(np.mean(labelled))  # a row a prompt, here
                assert fronts["labels"][name] == {"rows": len(labelled), "prompts": len(labelled)}
            assert point["length"] > 0
    assert {name: each["rows"] for name, each in fronts["labels"].items()}["tone"] < fronts["labels"]["detail"]["rows"]


def test_the_base_model_is_at_chance_and_corners_are_the_policies(
    fronts: dict[str, Any], rankings: list[Ranking]
) -> None:
    (base,) = fronts["methods"]["base"]["points"]
    assert set(base["rewards"].values()) == {0.5} and list(base["interval"].values()) == [pytest.approx([0.5, 0.5])] * 3
    assert {each.margin for each in rankings if each.method == "base"} == {0.0}
    for name in NAMES:
        corner = {each: float(each == name) for each in NAMES}
        alone, soup, mixed = (
            [each.margin for each in rankings if each.method == method and each.weights == weights]
            for method, weights in ((f"policy:{name}", None), ("soups", corner), ("mod", corner))
        )
        assert soup == pytest.approx(alone, abs=1e-3) and mixed == pytest.approx(alone, abs=1e-3)


def test_a_report_says_what_is_measured(config: Config) -> None:
    page = re.sub(r"\s+", " ", (config.run_dir / "report" / "report.html").read_text())
    told = page.partition('<section id="knob">')[0]
    assert CAVEAT in told and "Share of held-out labels agreed with on" in told
    assert "Left out, because labels can only score a model that is mixed or trained: best-of-n." in told
    assert "Mean true reward" not in page and "No reward scores them" in page
    assert "Recommended:" not in page


def test_choose_and_compare_know_labels(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    choose(config.run_dir, wish_of(config, {"detail": "0.1"}, {}, [("--maximise", "tone")]))
    said = capsys.readouterr().out
    assert "share of held-out labels agreed with" in said and CAVEAT in " ".join(said.split())
    compare([config.run_dir], form="json")
    found = json.loads(capsys.readouterr().out)
    assert found["measure"] == "labels" and {each["direction"] for each in found["objectives"]} == {"maximize"}
    assert found["methods"]["base"]["utility"] == pytest.approx(0.5)
    with pytest.raises(SipoError, match="--equal-gain|no point|--at-most"):
        wish_of(config, {}, {"detail": "0.1"}, [("--maximise", "tone")])


def test_rewards_stand_beside_where_some_objectives_have_one(
    finished: dict[str, Any], fronts: dict[str, Any], executed: list[str], tmp_path: Path
) -> None:
    config = parse_config(rewarded(copied(finished, tmp_path), "detail"), "settings")
    run(config, until="compare", quiet=True)
    assert executed == [*(f"judged/{name}" for name in METHODS), "compare"]
    mixed, outputs = read_json(config.run_dir / "compare" / "fronts.json"), Outputs(config.run_dir, config)
    assert {name: each["points"] for name, each in mixed["methods"].items()} == {
        name: each["points"] for name, each in fronts["methods"].items()
    }
    beside = mixed["beside"]
    assert beside["measure"] == "rewards" and beside["objectives"] == [{"name": "detail", "direction": "minimize"}]
    assert set(beside["methods"]) == set(mixed["methods"]) | {"best-of-n"}
    for method in ("mod", "best-of-n"):
        answers = outputs.read(f"judged/{method}", RESPONSES)
        for point in beside["methods"][method]:
            words = [each.rewards["detail"] for each in answers if each.weights == point["weights"]]
            assert list(point["rewards"]) == ["detail"] and point["rewards"]["detail"] == pytest.approx(np.mean(words))
    assert "The rewards of detail stand in a table of their own." in measure_of(mixed).caveats(mixed)


def test_labels_stand_beside_rewards_that_decide(
    finished: dict[str, Any], fronts: dict[str, Any], executed: list[str], tmp_path: Path
) -> None:
    settings = rewarded(copied(finished, tmp_path), *NAMES)
    config = parse_config({**settings, "evaluate": {**finished["evaluate"], "labels": True}}, "settings")
    run(config, until="compare", quiet=True)
    assert not [name for name in executed if name.startswith(("align", "answers", "held-out", "ranked"))]
    found = read_json(config.run_dir / "compare" / "fronts.json")
    assert "measure" not in found and found["objectives"][0]["direction"] == "minimize"
    assert found["beside"]["prompts"] == {name: each["prompts"] for name, each in fronts["labels"].items()}
    for method, points in found["beside"]["methods"].items():
        for point, expected in zip(points, fronts["methods"][method]["points"], strict=True):
            assert point["rewards"] == pytest.approx(expected["rewards"])


def test_killed_amid_its_rankings_a_run_ends_as_if_nothing_had_happened(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(copied(finished, tmp_path), "settings")
    there = config.run_dir / "ranked" / "mod" / "rankings.jsonl"
    expected, calls, compute = there.read_bytes(), [0], Mixed.__call__

    def counted(self: Mixed, *given: Any) -> list[float]:
        calls[-1] += 1
        if calls == [4]:
            raise KeyboardInterrupt
        return compute(self, *given)

    monkeypatch.setattr(Mixed, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(config, start="ranked/mod", until="ranked/mod", quiet=True)
    assert not there.exists()
    calls.append(0)
    run(config, start="ranked/mod", until="ranked/mod", quiet=True)
    rows = len(labelled_rows(Task(config)))
    assert there.read_bytes() == expected and calls[1] == rows - 3  # a batch a row, here: the fourth was broken off


def test_a_check_says_what_decides(finished: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**rewarded(finished, "tone"), "run_dir": finished["run_dir"] + "-not-there"}
    found = check(parse_config(settings, "settings"))
    said = " ".join(capsys.readouterr().out.split())
    assert f"measured by held-out labels, for all objectives, since detail and brevity have no reward. {CAVEAT}" in said
    assert "The rewards of tone stand beside" in said and "Labels cannot score best-of-n" in said
    assert any("has labels on" in line and "test prompts" in line for line in found.remarks)
    assert {"held-out", "ranked/mod"} <= {each["stage"] for each in found.plan}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ["prompting", "best-of-n"]}, "methods: labels can only score a model"),
        (
            {"methods": ["mod", "sipo"], "filter": "rewards"},
            "the rule rewards chooses by rewards, and `detail` has none",
        ),
    ],
)
def test_what_labels_cannot_do_is_said_at_once(settings: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(SipoError, match=re.escape(said)):
        check(parse_config(unrewarded(settings, **change), "settings"))


def test_an_objective_without_a_held_out_label_is_named(settings: dict[str, Any]) -> None:
    path = Path(settings["data"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = "test" if number < 8 else "train"
        row["preferred"]["tone"] = None if number < 8 else number % 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SipoError, match="`tone` has no label in the held-out rows"):
        check(parse_config(unrewarded(settings), "settings"))


def test_a_study_needs_rewards(finished: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_config(parse_config(finished, "settings")))
    with pytest.raises(SipoError, match="mine.yaml: a study measures by rewards, and `detail` has none"):
        Ground("mine", str(path), tmp_path).settings(1, Progress(quiet=True))


def test_prepared_rows_without_a_reward_are_ready_to_run(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    records = [
        {
            "prompt": f"why {number} " * 30,
            "response": "so " * (1 + 2 * draw),
            **{n: (draw * (at % 4 + 1) + number) % 5 for at, n in enumerate(scores, 1)},
        }
        for number in range(40)
        for draw in range(2)
    ]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    prepared, config = tmp_path / "prepared", tmp_path / "run.yaml"
    asked = ["--objectives", "helpfulness,complexity,verbosity", "--direction", "verbosity=minimize"]
    assert main(["data", "prepare", str(tmp_path / "scored.jsonl"), "--to", str(prepared), *asked]) == 0
    assert main(["init", str(config), "--data", str(prepared / "rows.jsonl")]) == 0
    found = load_config(config)
    assert [(each.name, each.better, each.reward) for each in found.objectives] == [
        ("helpfulness", "It helps more with what was asked.", None),
        ("complexity", "It goes deeper, as an expert would write.", None),
        ("verbosity", "It says it more briefly.", None),
    ]
    capsys.readouterr()
    sets = ["--set", f"model.path={model_folder}", "--set", "lora.r=2"]
    assert main(["check", str(config), *sets]) == 0
    assert "measured   by held-out labels" in capsys.readouterr().out
