"""SIGKILL at any moment: the same command goes on, and ends with the bytes of an undisturbed one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chance import Chance, undisturbed
from damage import files_of, results_of
from whole import Other, Whole, whole_of

from sipo.config.file import parse_config
from sipo.task import Task

pytestmark = pytest.mark.early


@pytest.mark.slow
@pytest.mark.faults(7)
def test_a_run(whole: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL | `sipo run`, eight methods | tables, texts, adapters"""
    for place in chance.trials(tmp_path):
        chance.disturbed(whole.into(place / "run"), place / "log", whole.seconds, 10, start=whole.start)
        assert results_of(place / "run") == results_of(whole.run)
        assert not files_of(place / "run" / ".partial")


CHANGES: dict[str, dict[str, Any]] = {
    "sft": {"sft": {"lr": 3e-3, "epochs": 1, "batch_size": 2, "accumulate": 2, "max_tokens": 300}},
    "full": {"policies": "full", "lora": None},
    "tried": {"align": {"lr": "auto", "strengths": [1, 2], "epochs": 1, "batch_size": 8}},
    "rounds": {"methods": ["base", "sipo"], "rounds": 2},
}
"""Of the settings of a small run of base and MOD."""


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.slow
@pytest.mark.faults(3)
def test_other_runs(make_whole: Callable[..., Whole], tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGKILL | `sipo run` with `sft`, `policies: full`, `align.lr: auto`, two rounds | tables, texts, weights"""
    whole = make_whole(name, **{"methods": ["base", "mod"], **CHANGES[name]})
    for place in chance.trials(tmp_path):
        chance.disturbed(whole.into(place / "run"), place / "log", whole.seconds, 3, start=whole.start)
        same = [results_of(run) for run in (whole.run, place / "run")]
        if name == "sft":  # an adapter names the model that it stands on by its path
            same = [{path: each for path, each in found.items() if "adapter_config" not in path} for found in same]
        assert same[0] == same[1]


@pytest.mark.slow
@pytest.mark.faults(4)
def test_the_report(whole: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL | the report's compilation | every byte of the page and its tables"""
    shutil.copytree(whole.run, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "report")
    seconds = undisturbed(whole.into(tmp_path / "other", "--only", "report"), tmp_path / "log")
    expected = pages_of(tmp_path / "other")
    assert expected["report.html"]
    for place in chance.trials(tmp_path):
        run = shutil.copytree(whole.run, place / "run")
        shutil.rmtree(run / "report")
        chance.disturbed(whole.into(run, "--only", "report"), place / "log", seconds, 2)
        assert pages_of(run) == expected


def pages_of(run: Path) -> dict[str, bytes]:
    """All of the report, which names its run."""
    files = [file for file in files_of(run / "report") if file.name != "stage.json"]
    return {file.name: file.read_bytes().replace(str(run).encode(), b"RUN") for file in files}


@pytest.mark.parametrize("name", ["prepare", "convert", "label", "reward"])
@pytest.mark.faults(3)
def test_other_commands(model_folder: Path, bank: Any, tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGKILL | `sipo data prepare`, `data convert`, `data label`, `reward train` | the file or folder, nothing beside
    it
    """
    other = Other(name, tmp_path, model_folder)
    for place in chance.trials(tmp_path):
        command = other.into(place / "within")
        chance.disturbed(command, place / "log", other.seconds, 3, made=place / "within" / other.target)
        assert whole_of(place / "within" / other.target) == other.whole


EXPORTS = {
    "adapter": ["--method", "soups"],
    "merged": ["--method", "soups", "--merged"],
    "distilled": ["--method", "mod", "--distil"],
}


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.slow
@pytest.mark.faults(2)
def test_exports(whole: Whole, tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGKILL | `sipo export` of an adapter, merged, distilled | the exported weights; the run stays as it was"""
    expected, seconds = dict[str, bytes](), 0.0
    for place in chance.trials(tmp_path):
        (place / "within").mkdir()
        run = shutil.copytree(whole.run, place / "run")
        command = ["export", str(run), *whole.shares, *EXPORTS[name], "--to", str(place / "within" / "out")]
        if not expected:
            other = shutil.copytree(whole.run, place / "other")
            alone = ["export", str(other), *command[2:-1], str(place / "out")]
            seconds = undisturbed(alone, place / "log")
            expected = weights_of(place / "out")
            assert expected
        chance.disturbed(command, place / "log", seconds, 2, made=place / "within" / "out")
        assert weights_of(place / "within" / "out") == expected
        found = {path: each for path, each in results_of(run).items() if not path.startswith("distilled/")}
        assert found == results_of(whole.run)


def weights_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files_of(folder) if file.suffix == ".safetensors"}


@pytest.mark.slow
@pytest.mark.faults(3)
def test_a_study(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL | `sipo study` of two seeds | its tables, picture and verdict"""

    def command(to: Path) -> list[str]:
        return ["study", "soups", "--on", str(brief.config), "--seeds", "2", "--arms", "soups,mod", "--to", str(to)]

    seconds = undisturbed(command(tmp_path / "whole"), tmp_path / "log")
    expected = study_of(tmp_path / "whole")
    assert any(name.endswith("results.md") for name in expected)
    for place in chance.trials(tmp_path):
        chance.disturbed(command(place / "study"), place / "log", seconds, 4, start=brief.start)
        assert study_of(place / "study") == expected


def study_of(folder: Path) -> dict[str, bytes]:
    """All but the runs' own records and the places that these tell of."""
    found = {}
    for file in files_of(folder):
        name = file.relative_to(folder).as_posix()
        if file.suffix in (".md", ".png", ".npz") and "/report/" not in name:
            found[name] = file.read_bytes().replace(str(folder).encode(), b"FOLDER")
    return found


@pytest.mark.faults(3)
def test_rows_that_a_run_makes(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL | `data.source`, while a run makes its rows | the rows and their card, made once"""
    source = tmp_path / "pku.jsonl"
    with source.open("w") as stream:
        for i in range(2000):
            row = {"prompt": f"why {i}", "response_0": f"an answer to {i}", "response_1": f"an answer to {i} and more"}
            print(json.dumps({**row, "better_response_id": i % 3 // 2, "safer_response_id": i % 2}), file=stream)
    settings = make_settings(tmp_path)
    data = {key: each for key, each in settings["data"].items() if key != "path"}
    data["source"] = {"name": str(source), "objectives": ["helpful", "harmless"]}
    named = [{**each, "name": name} for each, name in zip(settings["objectives"], ("helpful", "harmless"), strict=True)]
    values = {**settings, "objectives": named, "data": data}

    def read() -> None:
        assert len(Task(parse_config(values, "settings")).rows) == 2000

    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "whole"))
    seconds = undisturbed(["--version"], tmp_path / "log", read)
    expected = made_in(tmp_path / "whole")
    assert len(expected) >= 2
    for place in chance.trials(tmp_path):
        monkeypatch.setenv("SIPO_CACHE", str(place / "cache"))
        chance.disturbed(["--version"], place / "log", seconds, 2, within=read)
        assert made_in(place / "cache") == expected


def made_in(cache: Path) -> dict[str, bytes]:
    return {file.relative_to(cache).as_posix(): file.read_bytes() for file in files_of(cache)}
