"""What a run prints to be copied into a shell is executed as it stands, and so is all that those commands print."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from sipo import commands
from sipo.cli.arguments import parse_weights
from sipo.cli.main import main
from sipo.commands import VLLM_RANKS, called, command, install_extra, question, ratios, serve
from sipo.errors import SipoError
from sipo.weights import as_weight, simplex_lattice

THIRD = {"name": "tone", "better": "It is kind.", "reward": "sipo.rewards.text:distinct_words"}


def printed(text: str) -> Iterator[list[str]]:
    """The command lines in what was printed: in backticks, or what follows a label to the end of the line."""
    start = f"(?:{re.escape(command(*called(Path.cwd())))}|vllm) [a-z]"
    for line in text.splitlines():
        for found in re.findall(rf"`({start}[^`]*)`|^\S+ it +({start}.*)|^choose +({start}.*)", line):
            yield shlex.split("".join(found), comments=True)


def execute(text: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Run the commands in a text, those that they print, and so on; those that were run."""
    asked, done = list(printed(text)), list[list[str]]()
    while asked:
        words = asked.pop(0)
        if words in done or ("export" in words and Path(words[-1]).exists()):
            continue
        done.append(words)
        if words[0] == "vllm":
            check_served(words[1:])
            continue
        assert main(words[len(called(Path.cwd())) :]) == 0, (words, capsys.readouterr().err)
        asked += printed(capsys.readouterr().out)
    return done


def check_served(words: list[str]) -> None:
    """What vLLM, which is not installed here, would have to find (tests/engines/test_vllm.py has its own parser)."""
    assert words[0] == "serve"
    options = dict(pairwise(words[2:]))
    if not options:
        assert (Path(words[1]) / "model.safetensors").exists()
        return
    base, (_, _, folder) = Path(words[1]), options["--lora-modules"].partition("=")
    about = json.loads((Path(folder) / "adapter_config.json").read_text())
    assert base.is_dir() and base == Path(about["base_model_name_or_path"])
    assert about["r"] <= int(options["--max-lora-rank"]) in VLLM_RANKS and "--enable-lora" in words


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("methods", [["mod", "sipo"], ["mod"]], ids=["sipo", "none"])
def test_all_that_a_run_prints_runs(
    n: int,
    methods: list[str],
    make_settings: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings(tmp_path)
    settings["objectives"] += [THIRD] * (n == 3)
    settings |= {"methods": methods, "weights": {"divisions": n}, "run_dir": str(tmp_path / "it's a run")}
    settings |= {"sample": {"prompts": 4, "per_weight": 2}, "align": {"lr": 0.01, "epochs": 1, "checkpoint": "last"}}
    settings["data"]["max_response_tokens"] = settings["refine"]["review_tokens"] = 4
    settings["evaluate"] |= {"prompts": 4}
    (tmp_path / "-my run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", "./-my run.yaml"]) == 0
    done = execute(capsys.readouterr().out, capsys)
    assert {words[-1] if words[0] == "vllm" else words[len(called(Path.cwd()))] for words in done} == {
        *("run", "choose", "generate", "export", "soup=soup", "chosen=chosen"),
    }
    (asked,) = {words[words.index("--prompt") + 1] for words in done if "generate" in words}
    assert asked in (tmp_path / "rows.jsonl").read_text(), "a prompt of the run's own"
    page = (tmp_path / "it's a run" / "report" / "report.html").read_text()
    given = [shlex.split(html.unescape(each)) for each in re.findall("<code>(sipo .*?)</code>", page)]
    assert [words[1] for words in given] == ["generate", "choose", "export"]
    shutil.rmtree(tmp_path / "chosen")
    for words in given:
        assert main(words[1:]) == 0, (words, capsys.readouterr().err)
    if (n, methods) == (2, ["mod"]):
        (tmp_path / "it's a run" / "report" / "report.html").unlink()
        assert main(["status", "it's a run"]) == 0
        assert any("run" in words for words in execute(capsys.readouterr().out, capsys)), "it goes on"


def test_a_run_made_piece_by_piece_says_what_is_next(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs of a configuration make it, and what each prints leads to the next one."""
    monkeypatch.chdir(tmp_path)
    settings |= {"methods": ["mod"], "weights": {"divisions": 1}}
    settings |= {"align": {"lr": 0.01, "epochs": 1}, "run_dir": "run"}
    settings["data"]["max_response_tokens"] = settings["evaluate"]["prompts"] = 4
    (tmp_path / "my run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", "my run.yaml", "--set", "seed=2", "--jobs"]) == 0
    said = capsys.readouterr().out
    assert [len(group.splitlines()) for group in said.split("\n\n")] == [1, 2, 1], "what is said, then two groups"
    called_as = len(called(Path.cwd()))
    jobs = [words for line in said.splitlines() if (words := shlex.split(line, comments=True))]
    following: list[list[str]] = []
    for words in jobs:
        asked = words[called_as + 2 :]
        assert asked[:2] == ["--set", "seed=2"]
        assert not following or asked[2:] == following[0][called_as + 4 :], "what was said to be next, in its folder"
        assert main(words[called_as:]) == 0, (words, capsys.readouterr().err)
        following = list(printed(capsys.readouterr().out))
    assert {words[called_as] for words in following if words[0] != "vllm"} == {"choose", "generate", "export"}
    for name, at, left in (("--until", "answers/mod", "judged/mod"), ("--only", "judged/mod", "compare")):
        changed = ["--set", "decoding.temperature=0", name, at]
        assert main(["run", "my run.yaml", "--set", "seed=2", *changed]) == 0
        said = capsys.readouterr().out
        (words,) = printed(said)
        assert words[called_as:] == ["run", "run/config.yaml", "--run-dir", "run"]
        assert said.endswith(f"goes on with {left}\n")


def test_one_form_of_an_answer_at_a_time(rows_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for two in (["--graph", "--json"], ["--jobs", "--json"], ["--graph", "--jobs"]):
        assert main(["check", "configs/quickstart.yaml", *two]) == 2
        assert "--graph, --jobs and --json: give one" in capsys.readouterr().err


def test_a_command_runs_in_a_shell(rows_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it was printed, from the folder where it was."""
    place = rows_file.with_name("it's $HOME & `mine`.jsonl")
    rows_file.rename(place)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = commands.sipo("data", "inspect", place, "--json")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["file"] == str(place)


def test_how_sipo_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / ".venv" / "bin"
    place.mkdir(parents=True)
    for name in ("sipo", "python"):
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setenv("PATH", "")
    assert called.__wrapped__(tmp_path) == (".venv/bin/sipo",)
    assert called.__wrapped__(tmp_path / "elsewhere") == (str(place / "sipo"),)
    monkeypatch.setenv("PATH", str(place))
    assert called.__wrapped__(tmp_path) == ("sipo",)
    other = tmp_path / "other"
    other.mkdir()
    (other / "sipo").write_text("#!/bin/sh\n")
    (other / "sipo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{place}")
    assert called.__wrapped__(tmp_path) == (".venv/bin/sipo",), "what a shell finds is another sipo"
    (place / "sipo").unlink()
    assert called.__wrapped__(tmp_path) == ("python", "-m", "sipo")
    monkeypatch.setattr(sys, "argv", [str(other / "sipo")])
    assert called.__wrapped__(tmp_path) == ("sipo",)
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setenv("PATH", "")
    assert called.__wrapped__(tmp_path) == (".venv/bin/python", "-m", "sipo")


@pytest.mark.parametrize("n", [2, 3, 6, 7, 9])
def test_weights_read_back_as_they_were(n: int) -> None:
    names = [f"o{i}" for i in range(n)]
    for weight in [*simplex_lattice(n, 3), (1 / n,) * n, (*(0.1 * 3,), 1 - 0.1 * 3, *(0.0,) * (n - 2))]:
        assert as_weight(parse_weights(ratios(dict(zip(names, weight, strict=True)))), names, "here") == weight


@pytest.mark.parametrize("text", ["a=1/0", "a=1/3/4", "a=/3", "a=1/x"])
def test_a_ratio_that_is_none(text: str) -> None:
    with pytest.raises(SipoError, match=r"--weights: a=\S+ is no number; write numbers such as a=0.5 or 1/3"):
        parse_weights(text)


def test_a_rank_that_vllm_has_no_room_for_is_not_offered() -> None:
    assert "--max-lora-rank 16 " in serve("soup", "base", 9)
    assert serve("soup", "base", 513) == ""


def test_a_question_is_short_and_on_one_line() -> None:
    assert question(["", " ", "two\nlines", "x" * 200, "why is it so", "what is it"]) == "what is it"
    assert question([]) == question(["\n"]) == commands.QUESTION


@pytest.mark.parametrize("extra", ["text", "judge", "hub", "sft", "vllm"])
def test_an_extra_is_named_by_its_packages(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(install_extra(extra))
    assert words[1:4] == ["-m", "pip", "install"]
    assert words[4:] and not any("sipo" in word for word in words[4:])

    def none(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(commands, "requires", none)
    assert shlex.split(install_extra(extra))[4:] == [f"sipo[{extra}]"]
