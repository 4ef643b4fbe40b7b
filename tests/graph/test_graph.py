"""The graph of a run: what a stage can see, when it holds, and what a change makes anew."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stage_keys import stage_keys

from sipo.cli.main import main
from sipo.config import Config
from sipo.config.file import dump_config, parse_config
from sipo.declare.stage import Stage, later
from sipo.disk.run import RunFolder
from sipo.graph import key
from sipo.graph.build import Graph
from sipo.graph.view import UndeclaredError, View
from sipo.runs.pipeline import run
from sipo.runs.status import read_run, stage_statuses
from sipo.task import Task

ROOT = Path(__file__).parents[2]
ABOUT = {"model": "m", "rows": "r", "objectives": ["detail", "brevity"]}


@pytest.fixture(scope="module")
def once(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = make_settings(tmp_path_factory.mktemp("graph"))
    settings["methods"] = ["base", "soups"]
    run(parse_config(settings, "settings"), quiet=True)
    return settings


@pytest.fixture
def finished(once: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(once["run_dir"], tmp_path / "run")
    return {**once, "run_dir": str(tmp_path / "run")}


def again(settings: dict[str, Any], **changes: Any) -> Path:
    return run(parse_config({**settings, **changes}, "settings"), quiet=True)


def test_a_new_method_decodes_its_own_answers_and_no_others(finished: dict[str, Any], executed: list[str]) -> None:
    again(finished, methods=["base", "soups", "lw"])
    assert executed == ["lw", "answers/lw", "judged/lw", "compare", "report"]
    executed.clear()
    again(finished, methods=["lw", "soups"])
    assert executed == ["compare", "report"], "what is no longer compared costs nothing"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("reference_point", {"detail": 0.0, "brevity": 40.0}, ["compare", "report"]),
        ("bootstrap", 60, ["compare", "report"]),
        ("prompts", 3, ["answers/base", "answers/soups", "judged/base", "judged/soups", "compare", "report"]),
    ],
)
def test_only_what_reads_a_key_is_made_anew(
    finished: dict[str, Any], executed: list[str], key: str, value: Any, expected: list[str]
) -> None:
    again(finished, evaluate={**finished["evaluate"], key: value})
    assert executed == expected


def test_an_output_that_came_out_the_same_stops_the_wave(finished: dict[str, Any], executed: list[str]) -> None:
    """The prompts are all asked already: the answers are made anew, and nothing that reads them."""
    prompts = len(set((Path(finished["run_dir"]) / "answers/base/responses.jsonl").read_text().split('"prompt": ')))
    again(finished, evaluate={**finished["evaluate"], "prompts": 100 + prompts})
    assert executed == ["answers/base", "answers/soups"]


def test_a_raised_version_makes_its_stage_again_and_those_whose_input_changed(
    finished: dict[str, Any], executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(name: str, make: Any = None) -> None:
        add = Graph.add

        def changed(graph: Graph, stage: Stage) -> Stage:
            if stage.name == name and stage.version == 1:
                stage = replace(stage, version=2, make=make or stage.make)
            return add(graph, stage)

        monkeypatch.setattr(Graph, "add", changed)

    newer("align")
    again(finished)
    assert executed == ["align"], "it writes what it wrote before"
    executed.clear()
    judge = later("sipo.stages.judge:judge")

    def generous(task: Task, answers: list[Any], folder: Path) -> None:
        longer = [replace(each, response=each.response + " more") for each in answers]
        judge(task, longer, folder)

    newer("judged/soups", generous)
    again(finished)
    assert executed == ["judged/soups", "compare", "report"]


def test_a_folder_of_stages_is_made_anew_and_killed_goes_on(
    finished: dict[str, Any], executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    config = parse_config(finished, "settings")
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["sipo.stages.compare"], "compare", kill)
        with pytest.raises(KeyboardInterrupt):
            run(config, quiet=True, start="judged")
    assert executed == ["judged/base", "judged/soups", "compare"]
    executed.clear()
    run(config, quiet=True, start="judged")
    assert executed == ["compare", "report"], "what the first try made is left"
    executed.clear()
    run(config, quiet=True, start="judged")
    assert executed == ["judged/base", "judged/soups", "compare", "report"], "that try was brought to its end"


def test_another_command_does_not_go_on_with_the_one_that_was_killed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = ["align", "compare", "report"]
    assert folder.left_of("--from align", names) == names
    folder.made_anew("align")
    assert folder.left_of("--from align", names) == names[1:]
    assert folder.left_of("--from align, other settings", names) == names
    assert folder.left_of("none", []) == [] and folder.left_of("--from align", names) == names


def test_a_run_that_was_moved_goes_on_where_it_is(
    finished: dict[str, Any], executed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(finished, run_dir=finished["run_dir"])
    moved = Path(finished["run_dir"]).rename(tmp_path / "moved")
    assert main(["run", str(moved / "config.yaml")]) == 0
    monkeypatch.chdir(moved)
    assert main(["run", "config.yaml"]) == 0
    assert executed == [] and not Path(finished["run_dir"]).exists()


def test_a_reward_functions_code_counts_and_one_that_is_not_here_is_as_it_was(
    finished: dict[str, Any], executed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "of_mine" / "rewards.py"
    code.parent.mkdir()
    code.write_text("def much(prompts, responses):\n    return [len(each) for each in responses]\n")
    objectives = [{**each, "reward": "of_mine.rewards:much"} for each in finished["objectives"]]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        again(finished, objectives=objectives)
        assert executed == ["judged/base", "judged/soups", "compare", "report"]
        executed.clear()
        code.write_text(code.read_text().replace("len(each)", "-len(each)"))
        for name in ("of_mine.rewards", "of_mine"):
            patch.delitem(sys.modules, name)
        key._code.cache_clear()
        again(finished, objectives=objectives)
        assert executed == ["judged/base", "judged/soups", "compare", "report"]
    for name in ("of_mine.rewards", "of_mine"):
        sys.modules.pop(name, None)
    key._code.cache_clear()
    config = read_run(Path(finished["run_dir"]))
    assert {each.state for each in stage_statuses(Path(finished["run_dir"]), config)} == {"done"}


@pytest.mark.parametrize("name", ["policy", "base"])
def test_what_a_reward_names_on_disk_counts_by_its_content(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """A folder, as adapters are, or a file, as GGUF models are."""
    (tmp_path / "adapter").mkdir()
    files = {"policy": tmp_path / "adapter" / "adapter_model.safetensors", "base": tmp_path / "base.gguf"}
    for file in files.values():
        file.write_text("one")
    reward = {"policy": str(tmp_path / "adapter"), "base": str(files["base"])}
    settings["objectives"][0]["reward"] = reward
    config = parse_config({**settings, "methods": ["base"]}, "settings")
    before = stage_keys(config, ABOUT)
    assert stage_keys(config, ABOUT) == before
    files[name].write_text("other")
    after = stage_keys(config, ABOUT)
    assert after["judged/base"] != before["judged/base"] and after["answers/base"] == before["answers/base"]


def test_a_stage_sees_the_keys_that_it_declares(settings: dict[str, Any]) -> None:
    config = parse_config(settings, "settings")
    reads = ("align", "evaluate.prompts", "objectives.reward")
    seen: Any = View(config, reads, "mine")
    assert seen.align.lr_of("detail") == config.align.lr and seen.evaluate.prompts == config.evaluate.prompts
    assert seen.names == config.names and seen.maximise == config.maximise, "properties read through the view"
    assert [each.reward for each in seen.objectives] == [each.reward for each in config.objectives]
    assert seen.execution == config.execution and seen.run_dir == config.run_dir
    for undeclared in (lambda: seen.realign, lambda: seen.evaluate.bootstrap, lambda: seen.seed, lambda: seen.lora.r):
        with pytest.raises(UndeclaredError, match="stage `mine` reads the key .* which it does not declare"):
            undeclared()


def test_a_stage_that_reads_an_undeclared_key_fails(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    add = Graph.add

    def curious(task: Task, folder: Path, **_: Any) -> None:
        assert task.config.realign

    def changed(graph: Graph, stage: Stage) -> Stage:
        return add(graph, replace(stage, make=curious) if stage.name == "align" else stage)

    monkeypatch.setattr(Graph, "add", changed)
    with pytest.raises(UndeclaredError, match="stage `align` reads the key realign"):
        again(settings, methods=["base"])


def test_stages_read_all_that_they_declare(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is declared and never read would make a stage anew for nothing."""
    declared: dict[str, set[str]] = {}
    used: dict[str, set[str]] = {}
    of = Task.of

    def watched(task: Task, stage: Stage) -> Task:
        seen = of(task, stage)
        declared[stage.name] = set(stage.reads)
        used[stage.name] = seen.config._used  # type: ignore[attr-defined]
        return seen

    monkeypatch.setattr(Task, "of", watched)
    settings = {
        **make_settings(tmp_path),
        "methods": ["policies", "mod-alpha", "lw", "modpo", "raco", "consensus", "sipo"],
    }
    again(settings, filter="calibrated", realign={"lr": 0.001, "start": "merged"})
    through_the_site = {"seed", "data"}  # the rows, their splits and token ids, which all stages share
    for name, keys in declared.items():
        unread = keys - used[name] - through_the_site
        assert not unread, f"{name} declares {unread}"


def test_every_stage_names_what_it_writes(finished: dict[str, Any]) -> None:
    folder = Path(finished["run_dir"])
    for stage in Graph(parse_config(finished, "settings")):
        seal = RunFolder(folder).record(stage.name)["files"]
        for part in stage.writes:
            assert any(name == part.files or name.startswith(f"{part.files}/") for name in seal), (stage.name, part)


def test_stages_stand_after_what_they_are_made_from(settings: dict[str, Any]) -> None:
    more = {"methods": ["sipo", "modpo", "lw", "mod-alpha", "policies"], "rounds": 3, "filter": "calibrated", "sft": {}}
    before: set[str] = set()
    for stage in Graph(parse_config({**settings, **more}, "settings")):
        assert {each.name for each in stage.needs()} <= before
        before.add(stage.name)


def rounds(config: Config) -> list[str]:
    return [name for name in Graph(config).names if name.startswith("round-")]


def test_a_second_round_goes_on_from_the_realigned_policies(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, executed: list[str]
) -> None:
    settings = {**make_settings(tmp_path), "methods": ["sipo"]}
    one = again(settings)
    first = {
        name: (one / "realign/adapters" / name / "adapter_model.safetensors").read_bytes()
        for name in ABOUT["objectives"]
    }
    executed.clear()
    config = parse_config({**settings, "rounds": 2}, "settings")
    folder = run(config, quiet=True)
    assert (
        executed[:5]
        == rounds(config)
        == [f"round-2/{name}" for name in ("sample", "refine", "score", "filter", "realign")]
    )
    assert executed[5:] == ["answers/sipo", "judged/sipo", "compare", "report"], "the first round holds"
    assert (folder / "round-2/sample/samples.jsonl").read_text() != (folder / "sample/samples.jsonl").read_text()
    for name, before in first.items():
        now = (folder / "round-2/realign/adapters" / name / "adapter_model.safetensors").read_bytes()
        assert now != before, "it learned further"
    config_file = tmp_path / "again.yaml"
    config_file.write_text(dump_config(config))
    assert main(["status", str(folder)]) == 0
    executed.clear()
    assert main(["run", str(config_file), "--run-dir", str(folder), "--from", "round-2/filter"]) == 0
    assert executed == ["round-2/filter", "round-2/realign", "answers/sipo", "judged/sipo", "compare", "report"]


def test_keys_do_not_depend_on_the_order_of_methods(settings: dict[str, Any]) -> None:
    one, other = (
        stage_keys(parse_config({**settings, "methods": methods}, "settings"), ABOUT)
        for methods in (["lw", "mod", "sipo"], ["sipo", "mod", "lw"])
    )
    assert {name: key for name, key in one.items() if name not in ("compare", "report")} == {
        name: key for name, key in other.items() if name not in ("compare", "report")
    }


def test_the_picture_in_the_documentation_is_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    (command,) = re.findall(r"`sipo (check [^`]+ --graph)`", page)
    drawn = page.partition("```mermaid\n")[2].partition("```")[0]
    config, *options = command.split()[1:]
    assert main(["check", str(ROOT / config), *options]) == 0
    assert capsys.readouterr().out == drawn
    names = set(re.findall(r'\["(.+)"\]', drawn))
    assert {"align", "round-2/sample"} & names == {"align"} and "answers/sipo" in names
