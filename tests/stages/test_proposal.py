"""Which of MOD and soups validation proposes, and that a run with both uses it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sipo.config.file import parse_config
from sipo.declare.parts import PROPOSAL, RESPONSES
from sipo.estimate.table import plan_of
from sipo.graph.build import Graph
from sipo.records import Response
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.stages.proposal import propose
from sipo.stages.sample import named
from sipo.stages.trials import trial_rows
from sipo.task import Task

Make = Callable[[Path], dict[str, Any]]


def both(make: Make, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = make(folder)
    settings["data"] |= {"validation": 0.75, "test": 0.1}
    settings["objectives"][1] |= {"reward": "sipo.rewards.text:distinct_words", "direction": "maximize"}
    return {**settings, "methods": ["base", "soups", "mod"], **changes}


def answers(task: Task, method: str, words: list[int]) -> list[Response]:
    middle = named(task, (1 / len(task.objectives),) * len(task.objectives))
    texts = [" ".join(f"w{at}" for at in range(count)) for count in words]
    rows = trial_rows(task, len(words))
    return [
        Response(method, middle, row.key, row.text, 0, text, len(text), True, {})
        for row, text in zip(rows, texts, strict=True)
    ]


@pytest.mark.parametrize(
    ("mod", "soups", "method", "shown"),
    [(6, 3, "mod", True), (3, 6, "soups", True), (4, 4, "soups", False)],
    ids=["mod is above", "soups are above", "not told apart"],
)
def test_the_better_one_is_proposed_and_of_equals_the_cheaper(
    mod: int, soups: int, method: str, shown: bool, make_settings: Make, tmp_path: Path
) -> None:
    task = Task(parse_config(both(make_settings, tmp_path), "settings"))
    count = len(trial_rows(task, 64))
    assert count >= 30
    noise = np.random.default_rng(0).integers(0, 3, size=(2, count))
    given = {
        "mod": answers(task, "mod", (noise[0] + mod).tolist()),
        "soups": answers(task, "soups", (noise[1] + soups).tolist()),
    }
    found = propose(task, given, tmp_path)
    assert (found["method"], found["shown"], found["prompts"]) == (method, shown, count)
    expected = float(noise[1].mean() + soups - noise[0].mean() - mod) * (1 if method == "soups" else -1)
    assert found["difference"] == pytest.approx(expected, abs=1e-6)
    low, high = found["interval"]
    assert low < expected < high and (low > 0) == shown

    few = {name: mine[:29] for name, mine in given.items()}
    assert propose(task, few, tmp_path)["method"] is None
    assert propose(task, {"mod": [], "soups": []}, tmp_path)["prompts"] == 0


def test_there_is_something_to_propose_where_a_run_has_both(make_settings: Make, tmp_path: Path) -> None:
    def stages(**changes: Any) -> list[str]:
        names = Graph(parse_config(both(make_settings, tmp_path, **changes), "settings")).names
        return [name for name in names if name.startswith("trials/mixing") or name == "propose"]

    assert stages() == ["trials/mixing/mod", "trials/mixing/soups", "propose"]
    assert stages(methods=["mod", "soups", "sipo"]) == []
    assert stages(methods=["soups", "sipo", "sipo-soups"]) == [
        "trials/mixing/sipo",
        "trials/mixing/sipo-soups",
        "propose",
    ]
    assert stages(methods=["base", "mod"]) == []


def test_a_run_answers_validation_prompts_and_its_commands_use_what_they_propose(
    make_settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = both(make_settings, tmp_path, evaluate={"bootstrap": 50, "validation_prompts": 30})
    settings["align"]["epochs"] = 1
    config = parse_config(settings, "settings")
    path = run(config)
    outputs = Outputs(path, config)
    found = outputs.read("propose", PROPOSAL)
    assert found["prompts"] == 30 and {found["method"], found["other"]} == {"mod", "soups"}
    keys = {row.key for row in trial_rows(Task(config), 30)}
    plan = plan_of(Task(config))[0]
    for name, models in (("mod", 2), ("soups", 1)):
        responses = outputs.read(f"trials/mixing/{name}", RESPONSES)
        assert {each.prompt for each in responses} == keys and len(responses) == 30
        work = Graph(config)[f"trials/mixing/{name}"].work(plan)
        assert (work.written, work.decoding) == (30, 30 * models * config.data.max_response_tokens)
    ask = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ask it"))
    assert ("--method soups" in ask) == (found["method"] == "soups")
