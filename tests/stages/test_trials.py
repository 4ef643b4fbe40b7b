"""`lr: auto`: what is made for it, what is taken, and what a change or a crash costs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sipo.cli.main import main
from sipo.config.file import dump_config, parse_config
from sipo.declare.parts import POLICIES
from sipo.disk.tables import read_json, read_lines
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
from sipo.graph.build import Graph
from sipo.graph.trials import label
from sipo.rewards.text import words
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.stages import trials
from sipo.stages.trials import trial_weights
from sipo.task import Task

LADDER = [0.05, 0.5]
AUTO = {"lr": "auto", "strengths": LADDER, "keep_range": 0.0}
DIVERGING = 1e25
"""A strength that no training survives."""
TRIALS = [
    "trials/realign/x0/answers",
    *(f"trials/realign/{label(each)}/{name}" for each in LADDER for name in ("policies", "answers")),
]


def again(settings: dict[str, Any], **changes: Any) -> Path:
    return run(parse_config({**settings, **changes}, "settings"), quiet=True)


def with_validation(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "data": {**settings["data"], "validation": 0.3}, "methods": ["sipo"], "realign": AUTO}


@pytest.fixture(scope="module")
def once(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = with_validation(make_settings(tmp_path_factory.mktemp("trials")))
    again(settings)
    return settings


@pytest.fixture
def finished(once: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(once["run_dir"], tmp_path / "run")
    return {**once, "run_dir": str(tmp_path / "run")}


def test_the_policies_of_the_strength_that_was_taken_are_the_run_s(finished: dict[str, Any]) -> None:
    folder = Path(finished["run_dir"])
    told = read_json(folder / "realign/strength.json")
    chosen = folder / f"trials/realign/{label(told['chosen'])}/policies"
    for name in ("detail", "brevity"):
        mine, theirs = (
            place / "adapters" / name / "adapter_model.safetensors" for place in (folder / "realign", chosen)
        )
        assert mine.read_bytes() == theirs.read_bytes()
        assert told["lr"][name] == pytest.approx(told["chosen"] * finished["align"]["lr"])
    assert read_lines(folder / "realign/training.jsonl") == read_lines(chosen / "training.jsonl")
    assert [each["strength"] for each in told["trials"]] == LADDER and told["measure"] == "utility"
    assert read_json(folder / "compare/fronts.json")["strengths"] == {"realign": told}


def test_utilities_are_those_of_the_answers(finished: dict[str, Any]) -> None:
    """By hand, from the answers' words: more is better for one objective, less for the other."""
    folder = Path(finished["run_dir"])
    told = read_json(folder / "realign/strength.json")
    by_label = {"x0": told["start"], **{label(each["strength"]): each for each in told["trials"]}}
    for name, each in by_label.items():
        answers = read_lines(folder / f"trials/realign/{name}/answers/responses.jsonl")
        counts = words([], [answer["response"] for answer in answers])
        at = [(answer["weights"]["detail"], count) for answer, count in zip(answers, counts, strict=True)]
        # At equal weights, more and fewer words cancel; the run's weights are the corners and the middle, alike.
        corners = [np.mean([sign * count for share, count in at if share == of]) for of, sign in ((1, 1), (0, -1))]
        utility = sum(corners) / 3
        assert each["utility"] == pytest.approx(utility, abs=1e-9)
        assert len(answers) == told["prompts"] * len(trial_weights(2))


def test_another_floor_chooses_again_and_trains_nothing(finished: dict[str, Any], executed: list[str]) -> None:
    again(finished, realign={**AUTO, "keep_range": 0.01})
    assert executed[0] == "realign" and not any(name.startswith("trials") for name in executed)


def test_a_strength_more_is_tried_alone(finished: dict[str, Any], executed: list[str]) -> None:
    again(finished, realign={**AUTO, "strengths": [*LADDER, 1.0]})
    assert executed[:3] == ["trials/realign/x1/policies", "trials/realign/x1/answers", "realign"]


def test_a_strength_that_diverges_is_told_once_and_left_out(
    finished: dict[str, Any], executed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = Path(finished["run_dir"]), label(DIVERGING)
    before = read_json(folder / "realign/strength.json")
    answers = (folder / "answers/sipo/responses.jsonl").read_text()
    changed = {**finished, "realign": {**AUTO, "strengths": [*LADDER, DIVERGING]}}
    run(parse_config(changed, "settings"))
    assert executed[:3] == [f"trials/realign/{name}/policies", f"trials/realign/{name}/answers", "realign"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: strength")]
    assert len(said) == 1 and "x1e+25 diverged and is left out: realigning objective detail" in said[0]
    told = read_json(folder / "realign/strength.json")
    assert told["diverged"] == [DIVERGING] and not (folder / f"trials/realign/{name}/policies/adapters").exists()
    assert [told[key] for key in ("chosen", "lr", "trials", "start")] == [
        before[key] for key in ("chosen", "lr", "trials", "start")
    ]
    assert (folder / "answers/sipo/responses.jsonl").read_text() == answers
    page = (folder / "report/report.html").read_text()
    assert "At x1e+25 training diverged" in page and ">diverged<" in page
    executed.clear()
    again(changed)
    assert executed == [], "it is not tried again"


def test_answers_that_are_not_finite_are_a_divergence_but_for_the_start(
    once: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies may end with finite numbers and give logits that are none."""

    def broken(*_: Any) -> Any:
        raise NotFiniteError("no token can be chosen")

    task = Task(parse_config(once, "settings"))
    policies = Outputs(Path(once["run_dir"]), task.config).read("align", POLICIES)
    monkeypatch.setattr(trials, "written", broken)
    assert trials.answer_trial(task, policies, tmp_path, label="x3", of="realign") == []
    assert read_lines(tmp_path / "responses.jsonl") == []
    with pytest.raises(NotFiniteError):
        trials.answer_trial(task, policies, tmp_path, label="x0", of="realign")


def test_where_every_strength_diverges_the_run_ends_in_one_line(finished: dict[str, Any]) -> None:
    with pytest.raises(SipoError, match=r"realign\.lr: auto: training diverged at x1e\+25; write smaller"):
        again(finished, realign={**AUTO, "strengths": [DIVERGING]})


def test_the_same_choice_stops_there(finished: dict[str, Any], executed: list[str], monkeypatch: Any) -> None:
    """A change that takes the same policies decodes nothing anew."""
    chosen = read_json(Path(finished["run_dir"]) / "realign/strength.json")["chosen"]
    taken = trials.choose_strength

    def same(*given: Any) -> Any:
        found = taken(*given)
        return type(found)(chosen, found.trials, found.start)

    monkeypatch.setattr(trials, "choose_strength", same)
    again(finished, realign={**AUTO, "keep_range": 0.01})
    assert "answers/sipo" not in executed and "compare" in executed


def test_killed_between_strengths_it_goes_on_and_ends_the_same(
    once: dict[str, Any], tmp_path: Path, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**once, "run_dir": str(tmp_path / "killed")}
    with monkeypatch.context() as patch:
        patch.setattr(trials, "realign_at", _kill_at(trials.realign_at, LADDER[1]))
        with pytest.raises(KeyboardInterrupt):
            again(settings)
    executed.clear()
    again(settings)
    assert executed[0] == f"trials/realign/{label(LADDER[1])}/policies", "what was tried before is left"
    for name in ("realign/strength.json", "answers/sipo/responses.jsonl", "compare/fronts.json"):
        assert (tmp_path / "killed" / name).read_text() == (Path(once["run_dir"]) / name).read_text()


def _kill_at(make: Callable[..., Any], strength: float) -> Callable[..., Any]:
    def killed(*given: Any, **more: Any) -> Any:
        if more["strength"] == strength:
            raise KeyboardInterrupt
        return make(*given, **more)

    return killed


def test_without_rewards_labels_decide(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, executed: list[str]
) -> None:
    settings = with_validation(make_settings(tmp_path))
    objectives = [{key: each[key] for key in ("name", "better")} for each in settings["objectives"]]
    realign = {**AUTO, "strengths": [*LADDER, DIVERGING]}
    config = parse_config({**settings, "objectives": objectives, "realign": realign}, "settings")
    folder = tmp_path / "run"
    for stage in Graph(config).names[: Graph(config).names.index("realign") + 1]:
        run(config, only=stage, quiet=True)
    assert not any(name.endswith("answers") for name in executed) and "trials/realign/x0/scores" in executed
    told = read_json(folder / "realign/strength.json")
    assert told["measure"] == "preference accuracy" and told["prompts"] == 12
    assert all(0 <= each["utility"] <= 1 for each in [told["start"], *told["trials"]])
    assert [each["strength"] for each in told["trials"]] == LADDER and told["diverged"] == [DIVERGING]


def test_alignment_too_is_tried_and_what_trains_as_it_did_has_its_rate(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, executed: list[str]
) -> None:
    settings = {
        **with_validation(make_settings(tmp_path)),
        "methods": ["lw", "modpo", "sipo"],
        "align": {"lr": "auto", "strengths": [2.0, 20.0, DIVERGING], "epochs": 1, "trial_prompts": 3},
    }
    folder = again(settings)
    told = read_json(folder / "align/strength.json")
    assert (
        told["start"] is None
        and told["diverged"] == [DIVERGING]
        and told["prompts"] == 3
        and set(told["lr"].values()) == {told["chosen"] * 5e-4}
    )
    assert (folder / "align/logprobs.parquet").exists()
    realigned = read_json(folder / "realign/strength.json")
    rate = realigned["chosen"] * told["chosen"] * 5e-4
    assert realigned["lr"] == pytest.approx({"detail": rate, "brevity": rate})
    assert read_json(folder / "compare/fronts.json")["strengths"] == {"align": told, "realign": realigned}
    assert main(["status", str(folder)]) == 0
    executed.clear()
    again(settings)
    assert executed == []


def test_every_round_is_tried_and_held_against_alignment(settings: dict[str, Any]) -> None:
    names = Graph(parse_config({**with_validation(settings), "rounds": 2}, "settings")).names
    assert [name for name in names if "trials" in name] == TRIALS + [f"round-2/{name}" for name in TRIALS[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"realign": {"strengths": [1, 2]}}, "strengths is read with lr: auto alone"),
        ({"realign": {"keep_range": 0.2, "lr": 1e-3}}, "keep_range is read with lr: auto alone"),
        ({"align": {"trial_prompts": 9}}, "trial_prompts is read with lr: auto alone"),
        ({"realign": {"lr": "auto", "strengths": [2, 1]}}, "strengths: write them rising"),
        ({"realign": {"lr": "auto", "strengths": []}}, "write at least 1"),
        ({"realign": {"lr": "atuo"}}, "auto"),
    ],
)
def test_keys_that_do_nothing_or_make_no_ladder_are_refused(
    settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SipoError, match=message):
        parse_config({**settings, **changes}, "settings")


def test_auto_needs_validation_rows_and_check_tells_what_it_costs(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = {**settings, "methods": ["sipo"], "realign": AUTO}
    without = {**auto, "data": {**auto["data"], "validation": 0.0}}
    with pytest.raises(SipoError, match=r"realign\.lr is auto, which chooses on validation rows, and there are none"):
        again(without)
    file = tmp_path / "auto.yaml"
    file.write_text(dump_config(parse_config(auto, "settings")))
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TRIALS) and "chooses on 4 validation prompts: few" in said
