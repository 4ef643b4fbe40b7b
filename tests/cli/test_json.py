"""Commands as scripts read them: with --json, stdout is one JSON object, and what people are told goes to stderr."""

import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sipo.cli.app import app
from sipo.cli.main import main
from sipo.data import conflict_statistics, read_rows
from sipo.progress import answering, say, say_json
from sipo.studies import registry
from sipo.studies.study import Conclusion, Finding, Table

ONLY_FOR_PEOPLE = {"chat", "schema"}
"""A conversation, and what is JSON anyhow."""


def verbs(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
    for word, each in (below or {}).items():
        yield from verbs(each, f"{name} {word}".strip())


def test_every_verb_has_it() -> None:
    lacking = {
        name
        for name, verb in verbs(typer.main.get_command(app))
        if "--json" not in {o for p in verb.params for o in p.opts}
    }
    assert lacking == ONLY_FOR_PEOPLE


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], str]]:
    """The object that a command prints, and all that it says beside it."""

    def run(*argv: object) -> tuple[dict[str, Any], str]:
        assert main([*map(str, argv), "--json"]) == 0, capsys.readouterr().err
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 1
        return json.loads(captured.out), captured.err

    return run


def test_a_run_from_its_rows_to_an_adapter(
    told: Callable[..., tuple[dict[str, Any], str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    """What one command says is next, or where something lies, is what the following one is given."""
    rows = read_rows(tmp_path / "rows.jsonl")
    made, beside = told(
        "data", "prepare", tmp_path / "rows.jsonl", "--to", tmp_path / "rows", "--objectives", "detail,brevity"
    )
    assert (made["rows"], made["conflict_ratio"]) == (
        len(rows),
        conflict_statistics(rows, ["detail", "brevity"]).conflict_ratio,
    )
    assert "conflict ratio" in beside and read_rows(Path(made["file"]))
    converted, beside = told("data", "convert", made["file"], "--to", tmp_path / "trl")
    assert converted["pairs"]["detail.jsonl"] == len(rows) and "detail.jsonl" in beside
    begun, beside = told("init", tmp_path / "new.yaml", "--data", made["file"])
    assert Path(begun["file"]).exists() and begun["next"] in beside
    settings["evaluate"] |= {"prompts": 2}
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.01, "epochs": 1, "checkpoint": "last"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    done, beside = told("run", tmp_path / "run.yaml")
    assert done == told("status", settings["run_dir"])[0] and done["done"]
    assert "align" in beside and "report" in beside
    exported, beside = told("export", done["run"], "--weights", "detail=1,brevity=0", "--to", tmp_path / "soup")
    assert (exported["method"], exported["weights"]) == ("soups", {"detail": 1.0, "brevity": 0.0})
    about = json.loads((Path(exported["folder"]) / "adapter_config.json").read_text())
    assert (exported["base"], exported["rank"]) == (about["base_model_name_or_path"], about["r"])
    assert exported["serve"] in beside and "on this machine alone" in beside
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "why {i}"}}\n' for i in range(4)))
    labelled, beside = told(
        *("data", "label", "--prompts", tmp_path / "prompts.jsonl", "--model", settings["model"]["path"], "--to", tmp_path / "l.jsonl"),
        *("--objective", "long=sipo.rewards.text:words", "--max-tokens", "12", "--device", "cpu"),
    )  # fmt: skip
    assert "\n  answers  " in f"\n{beside}" and "moment" not in beside, "not by the name of a file"
    assert labelled["rows"] == len(read_rows(Path(labelled["file"]))) > 0
    assert told(*shlex.split(labelled["next"])[1:])[0]["rows"] == labelled["rows"] and labelled["next"] in beside


def test_a_study(
    told: Callable[..., tuple[dict[str, Any], str]],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))

    class Asked:
        name, question, only = "asked", "Does it?", ()

        def measure(self, *_: Any) -> dict[str, Any]:
            return {"n": 1}

        def conclude(self, _: Any, seeds: Any) -> Conclusion:
            table = Table("t", ["a"], [[float("nan")], [len(seeds)]])
            return Conclusion([table], [Finding("it does", "1 of 1", "holds")])

    monkeypatch.setitem(registry.STUDIES, "asked", Asked())
    found, beside = told("study", "asked", "--on", tmp_path / "run.yaml", "--seeds", "2", "--to", tmp_path / "studies")
    assert found["tables"][0]["rows"] == [[None], [2]] and found["findings"][0]["outcome"] == "holds"
    assert found["verdict"] in Path(found["results"]).read_text() and found["verdict"] in beside


@pytest.mark.parametrize(
    "verb", ["data prepare none --to x", "export none --weights a=1 --to x", "run none.yaml", "study none"]
)
def test_an_error_is_a_line_on_stderr_alone(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*verb.split(), "--json"]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.startswith("error: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_whatever_the_terminal_takes_it_is_json(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {
        "text": "caf\xe9 \N{SNOWMAN} \x1b[2J\n",
        "half": "\udce9",
        "n": [float("inf"), 1.5, float("nan")],
        "at": Path("a"),
    }
    out = io.TextIOWrapper(raw := io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    say_json(record)
    out.flush()
    read = json.loads(raw.getvalue().decode(encoding))
    assert read == {**record, "n": [None, 1.5, None], "at": "a"}
    assert "\x1b" not in raw.getvalue().decode(encoding)


def test_what_is_said_stays_on_stdout_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(False) as told:
        say("here")
        told["a"] = 1
    assert capsys.readouterr() == ("here\n", "")
    with pytest.raises(KeyboardInterrupt), answering(True) as told:
        told["a"] = 1
        raise KeyboardInterrupt
    assert capsys.readouterr() == ("", "")
