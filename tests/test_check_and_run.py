"""`check` accepts what `run` accepts and refuses what it refuses; what is worth a look it says, and lets pass."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

import sipo.runs.pipeline
from sipo.check import check
from sipo.cli.main import main
from sipo.config.file import load_config
from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.runs.pipeline import run

FUNCTIONS = """
import math, sys
def good(prompts, responses): return [len(r) for r in responses]
def one_argument(responses): return [1.0 for _ in responses]
def short(prompts, responses): return [1.0]
def nan(prompts, responses): return [math.nan for _ in responses]
def text(prompts, responses): return ["much" for _ in responses]
def none(prompts, responses): return None
def fails(prompts, responses): raise ValueError("no")
def leaves(prompts, responses): sys.exit(0)
constant = 3
"""


class StartedError(Exception):
    """The first stage was about to begin."""


@pytest.fixture
def verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], tuple[str | None, str | None]]:
    """What `check` and then `run` say against a configuration; None where they say nothing."""

    def started(*_: Any) -> None:
        raise StartedError

    monkeypatch.setattr(sipo.runs.pipeline.Work, "_make", started)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tried_functions.py").write_text(FUNCTIONS)
    sys.modules.pop("tried_functions", None)

    def told(settings: dict[str, Any]) -> tuple[str | None, str | None]:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings))
        answers: list[str | None] = []
        for command in (lambda config: check(config, Progress(quiet=True)), lambda config: run(config, quiet=True)):
            try:
                command(load_config(path))
                answers.append(None)
            except StartedError:
                answers.append(None)
            except SipoError as error:
                answers.append(str(error))
        return answers[0], answers[1]

    return told


def changed(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Keys with `__` for the point."""
    for key, value in changes.items():
        *sections, last = key.split("__")
        target: Any = settings
        for section in sections:
            target = target[int(section)] if section.isdigit() else target.setdefault(section, {})
        target[last] = value
    return settings


LONG = "- {role: user, content: '{{ prompt }} {{ response }} " + "on and on " * 900 + "'}\n"
ACCEPTED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no refine, no room for its template": {"refine__enabled": False, "refine__review_template": "LONG"},
    "no sipo, no room for its template": {"methods": ["base", "soups"], "refine__review_template": "LONG"},
    "no refine, a template that is missing": {"refine__enabled": False, "refine__rewrite_template": "nowhere.yaml"},
    "no sipo, folds beyond the rows": {"methods": ["base", "mod"], "filter": {"rule": "calibrated", "folds": 90}},
    "rewards that choose": {"filter": "rewards"},
    "no soup judges beside the policies": {"filter": {"rule": "paper", "weights": {"divisions": 1}}},
    "no sipo, only corners": {"methods": ["base", "mod"], "weights__divisions": 1},
    "only corners are measured": {"weights__divisions": 1},
    "no validation": {"data__validation": 0.0},
    "calibrated": {"filter": "calibrated"},
    "rates": {"align__lr": {"detail": 1e-3, "brevity": 1e-4}},
    "a reviewer that leaves one out": {"refine__reviewer": {"detail": 1.0}},
    "a reviewer off the simplex, not asked": {"refine": {"enabled": False, "reviewer": {"detail": 0.2}}},
    "one reward for all": {"objectives__1__direction": "maximize"},
    "every method": {"methods": ["base", "policies", "soups", "mod", "lw", "modpo", "sipo"]},
    "a function": {"objectives__0__reward": "tried_functions:good"},
    "one training prompt in conflict": {"sample__prompts": 1},
    "an sft that is off": {"sft": {"enabled": False, "lora": {"target_modules": ["nothing"]}}},
    "fewer test prompts than asked for": {"evaluate__prompts": 1000},
    "a large batch": {"align__batch_size": 10**9, "execution__train_tokens": 10**9},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a rate left out": ({"align__lr": {"detail": 1e-3}}, "align.lr: leaves out `brevity`"),
    "a later rate left out": ({"realign__lr": {"brevity": 1e-3}}, "realign.lr: leaves out `detail`"),
    "a template without room": (
        {"refine__review_template": "LONG"},
        "template: with the longest prompt, an answer and a review",
    ),
    "folds beyond the rows": ({"filter": {"rule": "calibrated", "folds": 90}}, "filter.folds: 90, but there are"),
    "no such feature": (
        {"filter": {"rule": "calibrated", "features": ["surfaces"]}},
        "`surfaces` is no feature; did you mean `surface`?",
    ),
    "a reward that no model gives": (
        {"filter": {"rule": "calibrated", "features": ["surface", "reward"]}},
        "filter.reward_model names none; name one",
    ),
    "no such reward model": (
        {"filter": {"rule": "calibrated", "features": ["reward"], "reward_model": "./nowhere"}},
        "filter.reward_model: ",
    ),
    "a margin without validation rows": (
        {"filter": {"margin": 1.64}, "data__validation": 0},
        "filter.margin: is in units of the noise on validation rows, and `",
    ),
    "another rule's key": (
        {"filter": {"rule": "paper", "folds": 90}},
        "the rule paper does not read folds; leave it out",
    ),
    "one argument": ({"objectives__0__reward": "tried_functions:one_argument"}, "must take (prompts, responses)"),
    "too few numbers": ({"objectives__0__reward": "tried_functions:short"}, "gave 1 number for 4 responses"),
    "no number": ({"objectives__0__reward": "tried_functions:nan"}, "return a finite number"),
    "a text": ({"objectives__1__reward": "tried_functions:text"}, "return a finite number"),
    "nothing": ({"objectives__0__reward": "tried_functions:none"}, "tried_functions.py:none"),
    "an exception": ({"objectives__0__reward": "tried_functions:fails"}, "failed with ValueError: no"),
    "an exit": ({"objectives__0__reward": "tried_functions:leaves"}, "tried_functions.py:leaves"),
    "no function": ({"objectives__0__reward": "tried_functions:constant"}, "`constant` is int"),
    "an init's words": (
        {"objectives__0__better": "Say here in one sentence what is better about a response that detail prefers."},
        "the `better` of `detail` is still what `sipo init` wrote",
    ),
    "only corners": ({"sample__weights": {"divisions": 1}}, "sample.weights: none lies between"),
    "no room but for corners": (
        {"sample__weights": {"at_most": 2}},
        "where sipo samples; raise sample.weights.at_most above 2",
    ),
    "a list of corners": ({"sample__weights": {"grid": [{"detail": 1}]}}, "; add one to sample.weights.grid"),
    "no judge": (
        {"filter": {"rule": "paper", "judges": ["soups"], "weights": {"divisions": 1}}},
        "filter.weights: none lies between the objectives, and soups alone judge",
    ),
    "no judge, with a margin": (
        {"filter": {"rule": "paper", "judges": ["soups"], "margin": 1.0, "weights": {"at_most": 2}}},
        "raise filter.weights.at_most above 2",
    ),
    "no room for the corners": ({"sample__weights__at_most": 1}, "sample.weights.at_most: 1 has no room for the"),
    "too many weights": ({"weights__divisions": 20_000}, "weights.divisions: 20000 makes 20,001 weights"),
    "infinity": ({"lora__alpha": float("inf")}, "`lora.alpha` is inf; write a finite number"),
    "no test": ({"data__test": 0.0}, "evaluate needs held-out prompts"),
    "no such layer": ({"lora__target_modules": ["nothing"]}, "nothing"),
    "no such layer in sft": ({"sft": {"lora": {"target_modules": ["nothing"]}}}, "nothing"),
    "a device without numbers": ({"execution__device": "meta"}, "execution.device: `meta`"),
    "no such device": ({"execution__device": "tpu9"}, "execution.device: `tpu9`"),
    "a reviewer off the simplex": ({"refine__reviewer": {"detail": 0.2}}, "refine.reviewer: the shares sum to 0.2"),
    "rewrites without refine": ({"refine__enabled": False, "filter": {"pool": "rewrites"}}, "filter.pool: rewrites"),
    "a folder in a file": ({"run_dir": "BENEATH"}, "nothing can be written in"),
    "more context than there is": ({"data__max_response_tokens": 4000}, "over the model's context"),
}


def placed(changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "long.yaml").write_text(LONG)
    at = {"LONG": str(tmp_path / "long.yaml"), "BENEATH": str(Path(settings["data"]["path"]) / "run")}
    return changed(
        settings, **{key: at.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    )


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_run_begins_check_accepts(name: str, settings: dict[str, Any], verdicts: Any, tmp_path: Path) -> None:
    assert verdicts(placed(ACCEPTED[name], settings, tmp_path)) == (None, None)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_end_a_run_is_refused_by_both(
    name: str, settings: dict[str, Any], verdicts: Any, tmp_path: Path
) -> None:
    changes, part = REFUSED[name]
    before, after = verdicts(placed(changes, settings, tmp_path))
    assert before == after and before is not None and part in before
    assert not (tmp_path / "run").exists(), "nothing is left behind"


@pytest.fixture(scope="module")
def scoring(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with three heads."""
    folder = tmp_path_factory.mktemp("scoring")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(model_folder, num_labels=3)
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        ({}, None),
        ({"num_labels": 5}, "score.weight is (3, 32), its config.json makes it (5, 32)"),
        ({"weights": "of the model"}, "its files have no score.weight, the head that scores"),
        ({"head": 7}, "it has no head `7`"),
        ({"model_type": "opt"}, None),
    ],
)
def test_a_reward_model_without_its_head_is_found_before_the_run(
    damage: dict[str, Any], part: str | None, scoring: Path, model_folder: Path, settings: dict[str, Any],
    verdicts: Any, tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "scoring"
    shutil.copytree(scoring, folder)
    if "num_labels" in damage:
        config = json.loads((folder / "config.json").read_text())
        labels = {str(i): f"LABEL_{i}" for i in range(damage["num_labels"])}
        config |= {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}
        (folder / "config.json").write_text(json.dumps(config))
    if "weights" in damage:
        shutil.copy(model_folder / "model.safetensors", folder)
    reward = {"model": str(folder), "head": damage.get("head", 0)}
    before, after = verdicts(changed(settings, objectives__0__reward=reward))
    assert before == after and ((before is None) if part is None else part in str(before))


def remarks(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml")]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_keys_that_nothing_reads_are_named(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = changed(
        settings, methods=["mod", "sipo"], refine__enabled=False, raco__c=0.1, align__beta=0.2, realign__lr="auto"
    )
    said = remarks(asked, tmp_path, capsys)
    assert "nothing in this run reads refine.review_tokens, raco.c, changed" in said
    said = remarks(changed(settings, methods=["mod", "raco", "sipo"], refine__enabled=True), tmp_path, capsys)
    assert "nothing in this run reads" not in said
    said = remarks(changed(settings, methods=["mod"], rounds=2, filter="rewards"), tmp_path, capsys)
    assert "filter.rule" in said and "rounds" in said and " align." not in said
    auto = {**settings, "realign": {"lr": "auto", "strengths": [1.0]}}
    assert "realign.lr" in remarks(changed(auto, methods=["mod"]), tmp_path, capsys)
    assert "realign.lr, changed" not in remarks(changed(auto, methods=["sipo"]), tmp_path, capsys)


def write_many(path: str, prompts: int, *, conflict: bool, constant: bool = False) -> None:
    rows = [
        {
            "prompt": f"tell me {i}", "response_0": f"a {i}", "response_1": f"b {i} c",
            "preferred": {"detail": 1 if constant else i // 3 % 2, "brevity": (i // 3 + (conflict and i % 2)) % 2},
        }
        for i in range(prompts)
    ]  # fmt: skip
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_nothing_to_remark_is_all_well(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_many(settings["data"]["path"], 400, conflict=True)
    text = remarks(changed(settings, sample={}), tmp_path, capsys)
    assert "look at this" not in text and "all is well" in text


@pytest.mark.parametrize(
    ("changes", "rows", "line"),
    [
        ({"evaluate__prompts": 29}, {}, "29 test prompts: too few for a verdict"),
        ({"objectives__1__direction": "maximize"}, {}, "detail and brevity have one and the same reward"),
        ({"data__validation": 0.0}, {}, "no validation rows"),
        ({"data__validation": 0.02}, {}, "validation rows: few to tell the best epoch by"),
        ({"methods": ["base", "mod"]}, {"conflict": False}, "no training row is in conflict"),
        ({"methods": ["base", "mod"]}, {"conflict": False}, "no test row is in conflict"),
        ({"sample__prompts": 5}, {}, "sipo works on 5 rows"),
        ({}, {"constant": True}, "`detail` prefers response 1 in all 400 rows"),
        ({"data__max_response_tokens": 3}, {}, "of the responses are cut at data.max_response_tokens"),
    ],
)
def test_what_is_worth_a_look_is_said_and_lets_pass(
    changes: dict[str, Any], rows: dict[str, bool], line: str, settings: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_many(settings["data"]["path"], 400, **{"conflict": True, **rows})
    text = remarks(changed(settings, **{"sample": {}, **changes}), tmp_path, capsys)
    before, _, after = text.partition("look at this:")
    assert line in after and line not in before
    assert "all is well" not in text and "nothing stops it" in text


@pytest.mark.parametrize("option", ["--gpu", "--tokens-per-second"])
@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf"])
def test_a_device_has_a_size_and_a_speed(
    option: str, value: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml"), f"{option}={value}"]) == 2
    assert capsys.readouterr().err == f"error: {option} {value}: give a number above 0\n"


def test_each_kind_of_work_has_a_rate(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    hours = []
    for rates in (
        "100",
        "reading=100,decoding=100,scoring=100,training=100",
        "reading=1,decoding=2,scoring=3,training=4",
    ):
        assert main(["check", str(tmp_path / "run.yaml"), "--tokens-per-second", rates, "--json"]) == 0
        hours.append([stage["hours"] for stage in json.loads(capsys.readouterr().out)["plan"]])
    assert hours[0] == hours[1] and sum(hours[2]) > 20 * sum(hours[0])
    for wrong in ("reading=1,decoding=2", "reading=1,decoding=2,scoring=3,training=4,other=5"):
        assert main(["check", str(tmp_path / "run.yaml"), "--tokens-per-second", wrong]) == 2
        assert "give one number, or reading=N,decoding=N,scoring=N,training=N" in capsys.readouterr().err
    assert (
        main(["check", str(tmp_path / "run.yaml"), "--tokens-per-second", "reading=1,decoding=0,scoring=3,training=4"])
        == 2
    )
    assert "--tokens-per-second 0: give a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a b", "c/d", "9th", "ä", "<b>", "x.y", ""])
def test_init_refuses_what_a_configuration_cannot_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "q", "response_0": "a", "response_1": "b", "preferred": {name: 1, "fine": 0}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["init", str(tmp_path / "run.yaml"), "--data", str(tmp_path / "rows.jsonl")]) == 2
    line = capsys.readouterr().err
    assert repr(name) in line and "rename it" in line and line.count("\n") == 1
    assert not (tmp_path / "run.yaml").exists()
