"""The long form of what other tests do a little of: `make test-faults`. Kills at random moments, and any damage at all.

Each kind of work ends, however often it is killed, with the bytes of an undisturbed one; and whatever is done to the
files of a run, every command either does right by it or says in a line what is wrong.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_rows
from damage import DAMAGES, Damage, files_of, results_of

from sipo.cli.main import main

pytestmark = pytest.mark.faults

EVERYTHING = ["base", "policies", "soups", "mod", "lw", "modpo", "sipo", "sipo-soups"]
SEEDS = range(3)


def work(command: list[str], errors: Path) -> None:
    """In a process of its own, which may be killed."""
    handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os._exit(main(command))


def killed_often(command: list[str], seed: int, longest: float, errors: Path) -> int:
    """Give the command until it ends by itself; how often it was killed. Each life may be longer than the last."""
    rng, context = random.Random(seed), multiprocessing.get_context("fork")
    for life in range(200):
        process = context.Process(target=work, args=(command, errors))
        process.start()
        process.join(rng.uniform(0.0, longest * (1 + 0.05 * life)))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, errors.read_text()
            assert "Traceback" not in errors.read_text()
            return life
    pytest.fail("it never came to an end")


def took(command: list[str]) -> float:
    began = time.monotonic()
    assert main(command) == 0
    return time.monotonic() - began


@pytest.fixture(scope="module")
def pristine(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a configuration of all methods with its finished run, and how many seconds that took."""
    folder = tmp_path_factory.mktemp("pristine")
    settings = {**make_settings(folder), "methods": EVERYTHING, "filter": {"rule": "calibrated"}}
    del settings["run_dir"]
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder, took(["run", str(folder / "run.yaml"), "--run-dir", str(folder / "run")])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_is_killed_often(pristine: tuple[Path, float], tmp_path: Path, seed: int) -> None:
    folder, seconds = pristine
    command = ["run", str(folder / "run.yaml"), "--run-dir", str(tmp_path / "run")]
    assert killed_often(command, seed, seconds / 4, tmp_path / "errors") > 2
    assert results_of(tmp_path / "run") == results_of(folder / "run")


def content_of(place: Path) -> dict[str, bytes]:
    """Of a file or folder, and whatever hidden thing is beside it."""
    beside = [each for each in place.parent.iterdir() if each.name.startswith(".")]
    assert beside == []
    files = files_of(place) if place.is_dir() else [place]
    return {str(file.relative_to(place.parent)): file.read_bytes() for file in files}


def commands(folder: Path, model: Path) -> dict[str, list[str]]:
    """Without where to: the last argument."""
    rows = folder / "rows.jsonl"
    label = ["data", "label", "--prompts", str(rows), "--model", str(model), "--max-tokens", "40"]
    reward = ["reward", "train", "--data", str(rows), "--model", str(model), "--rank", "2", "--epochs", "6"]
    return {
        "prepare": ["data", "prepare", str(rows), "--to"],
        "label": [*label, "--objective", "words=sipo.rewards.text:distinct_words", "--to"],
        "reward": [*reward, "--device", "cpu", "--batch-size", "4", "--to"],
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["prepare", "label", "reward"])
def test_other_work_that_is_killed_often(model_folder: Path, tmp_path: Path, name: str, seed: int) -> None:
    write_rows(tmp_path)
    command, target = commands(tmp_path, model_folder)[name], "out.jsonl" if name == "label" else "out"
    for place in ("whole", "killed"):
        (tmp_path / place).mkdir()
    seconds = took([*command, str(tmp_path / "whole" / target)])
    killed_often([*command, str(tmp_path / "killed" / target)], seed, seconds, tmp_path / "errors")
    assert content_of(tmp_path / "killed" / target) == content_of(tmp_path / "whole" / target)


def ask(run: Path) -> list[str]:
    shares = ["--weights", "detail=0.5,brevity=0.5", "--prompt", "tell me", "--max-tokens", "2"]
    return ["generate", str(run), *shares]


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_to_a_finished_run(
    pristine: tuple[Path, float], tmp_path: Path, damage: Damage, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every file in turn. What reads a damaged stage refuses in a line; a run ends as the undisturbed one."""
    folder, rng = pristine[0], random.Random(damage.__name__)
    main(ask(folder / "run"))
    answer = capfd.readouterr().out
    names = [file.relative_to(folder / "run") for file in files_of(folder / "run") if file.name != "metrics.jsonl"]
    for number, name in enumerate(names):
        run = shutil.copytree(folder / "run", tmp_path / str(number))
        damage(run / name, rng)
        again = ["run", str(folder / "run.yaml"), "--run-dir", str(run)]
        without = shutil.copytree(run, tmp_path / f"{number}-report")
        shutil.rmtree(without / "report")
        report = ["run", str(folder / "run.yaml"), "--run-dir", str(without), "--only", "report"]
        for command, told in ((["status", str(run)], None), (ask(run), answer), (report, None)):
            status, said = main(command), capfd.readouterr()
            assert status in (0, 2) and "Traceback" not in said.err
            assert status == 0 or str(name) in said.err
            assert status == 2 or told in (None, said.out), f"{name}: another answer"
        assert main(again) == 0, (name, capfd.readouterr().err)
        assert results_of(run) == results_of(folder / "run")
        shutil.rmtree(run)
        shutil.rmtree(without)


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_to_work_in_progress(pristine: tuple[Path, float], tmp_path: Path, seed: int) -> None:
    """Killed at a random moment, a random file of what is in progress is damaged, again and again."""
    (folder, seconds), rng = pristine, random.Random(seed)
    run, context = tmp_path / "run", multiprocessing.get_context("fork")
    command = ["run", str(folder / "run.yaml"), "--run-dir", str(run)]
    for life in range(12):
        process: Any = context.Process(target=work, args=(command, tmp_path / "errors"))
        process.start()
        process.join(rng.uniform(0.1, seconds / 6 * (1 + 0.1 * life)))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (tmp_path / "errors").read_text()
        if files := files_of(run / ".partial") if run.exists() else []:
            rng.choice(DAMAGES)(rng.choice(files), rng)
    assert main(command) == 0
    assert results_of(run) == results_of(folder / "run")
