"""`data.source`: rows that a run makes for itself, once for each source and each choice, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_keys import stage_keys

import sipo.data.making
from sipo.cli.main import main
from sipo.config import Config
from sipo.config.file import dump_config, load_config, parse_config
from sipo.data import read_rows
from sipo.data.cleaning import Choice
from sipo.data.digest import digest_of
from sipo.data.making import make_rows
from sipo.data.prepare import prepare
from sipo.graph.key import subject_of
from sipo.runs.pipeline import run
from sipo.task import Task


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pku(folder: Path) -> dict[str, Any]:
    records = [
        {"prompt": f"why {i}", "response_0": "water", "response_1": "the sun is warm",
         "better_response_id": 1, "safer_response_id": i % 2}
        for i in range(40)
    ]  # fmt: skip
    return {"name": str(lines(folder / "pku.jsonl", records)), "objectives": ["helpful", "harmless"]}


def scored(folder: Path) -> dict[str, Any]:
    """Every fifth prompt's answers are equally brief."""
    records = [
        {"question": f"why {i}", "response": text, "helpful": helpful, "harm": harm if i % 5 else 0}
        for i in range(40)
        for text, helpful, harm in (("water", 0, 0), ("the sun is warm", 1, i % 2 * 2 - 1))
    ]
    return {
        "name": str(lines(folder / "scored.jsonl", records)),
        "map": {"prompt": "question", "helpful": "helpful", "harmless": "harm"},
        "minimize": ["harmless"],
        "drop_ties": "any",
    }


def trl(folder: Path) -> dict[str, Any]:
    def record(i: int, better: int) -> dict[str, Any]:
        texts = ("water", "the sun is warm")
        return {"prompt": f"why {i}", "chosen": texts[better], "rejected": texts[1 - better]}

    lines(folder / "trl" / "helpful.jsonl", [record(i, 1) for i in range(40)])
    lines(folder / "trl" / "harmless.jsonl", [record(i, i % 2) for i in range(40)])
    return {"name": str(folder / "trl")}


SOURCES: list[Callable[[Path], dict[str, Any]]] = [pku, scored, trl]


@pytest.fixture
def with_source(settings: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The settings of a small run with a source in place of rows."""

    def build(source: Any, **data: Any) -> dict[str, Any]:
        others = {key: value for key, value in settings["data"].items() if key != "path"}
        names = [{**each, "name": name} for each, name in zip(settings["objectives"], NAMES, strict=True)]
        return {**settings, "objectives": names, "methods": ["base"], "data": {**others, "source": source, **data}}

    return build


NAMES = ("helpful", "harmless")


def configured(values: dict[str, Any]) -> Config:
    return parse_config(values, "settings")


def rows_of(values: dict[str, Any]) -> list[Any]:
    return Task(configured(values)).rows


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were prepared, in their order."""
    made: list[str] = []

    def counting(name: str, to: Path, choice: Choice) -> Any:
        made.append(name)
        return prepare(name, to, choice)

    monkeypatch.setattr(sipo.data.making, "prepare", counting)
    return made


@pytest.mark.parametrize("make", SOURCES)
def test_a_run_makes_its_rows_as_the_command_does_and_only_once(
    make: Callable[[Path], dict[str, Any]],
    with_source: Callable[..., dict[str, Any]],
    tmp_path: Path,
    preparations: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make(tmp_path)
    config = configured(with_source(source))
    assert config.data.source is not None
    run(config)
    assert (
        capsys.readouterr().out.splitlines()[0]
        == f"rows       are made of {source['name']}, in {config.data.path.parent}"
    )
    prepare(source["name"], tmp_path / "by-hand", config.data.source.choice)
    files = {file.name: file.read_bytes() for file in (tmp_path / "by-hand").iterdir()}
    assert {file.name: file.read_bytes() for file in config.data.path.parent.iterdir()} == files
    assert len(read_rows(config.data.path, NAMES)) == (32 if make is scored else 40)
    run(configured(with_source(source)))
    said = capsys.readouterr().out
    assert preparations == [source["name"]] and "are made of" not in said and "compare: holds" in said


def test_a_text_is_short_for_a_name(with_source: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    name = trl(tmp_path)["name"]
    assert configured(with_source(name)) == configured(with_source({"name": name}))


def test_the_same_rows_are_the_same_run_wherever_they_are_from(
    with_source: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    source = trl(tmp_path)
    made = configured(with_source(source))
    subject_of_made = subject_of(Task(made))
    given = configured(with_source(None, path=str(made.data.path)))
    assert subject_of(Task(given)) == subject_of_made
    assert stage_keys(given, subject_of_made) == stage_keys(made, subject_of_made)


def test_a_changed_label_of_the_same_length_makes_other_rows(
    with_source: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pku(tmp_path)
    file, values = Path(source["name"]), with_source(source)
    config = configured(values)
    before, about = Task(config).rows, subject_of(Task(config))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    assert main(["run", str(tmp_path / "mine.yaml")]) == 0
    times = file.stat()
    file.write_text(file.read_text().replace('"better_response_id": 1', '"better_response_id": 0', 1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    after = rows_of(values)
    assert [one == other for one, other in zip(before, after, strict=True)] == [False] + [True] * 39
    assert subject_of(Task(configured(values)))["rows"] != about["rows"]
    capsys.readouterr()
    assert main(["run", str(tmp_path / "mine.yaml")]) == 2
    assert "holds a run with other rows" in capsys.readouterr().err
    assert Task(parse_config(yaml.safe_load(dump_config(config)), "copy")).rows == before  # the run's own copy


@pytest.mark.parametrize(
    "change",
    [
        {"objectives": ["harmless", "helpful"]},
        {"minimize": ["helpful"]},
        {"drop_ties": "all"},
        {"seed": 1},
        {"format": "trl"},
        {"map": {"prompt": "prompt"}},
    ],
)
def test_every_option_has_rows_of_its_own(
    change: dict[str, Any], with_source: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    source = trl(tmp_path)
    plain, other = (configured(with_source(each)).data.path for each in (source, {**source, **change}))
    assert plain != other


def test_a_copy_of_a_source_is_the_same_and_its_names_count(tmp_path: Path) -> None:
    one, two = Path(trl(tmp_path / "a")["name"]), Path(trl(tmp_path / "b")["name"])
    assert digest_of(str(one), Choice()) == digest_of(str(two), Choice())
    (two / "helpful.jsonl").rename(two / "useful.jsonl")
    assert digest_of(str(one), Choice()) != digest_of(str(two), Choice())


def all_but_locks(folder: Path) -> list[Path]:
    """Locks stay in the cache, empty, for the next who wants the same rows."""
    locks = folder / "cache" / "locks"
    assert not locks.exists() or {file.stat().st_size for file in locks.iterdir()} <= {0}
    return sorted({*folder.rglob("*")} - {locks.parent, locks, *locks.glob("*.lock")})


def test_a_place_of_one_s_own(
    with_source: Callable[..., dict[str, Any]],
    tmp_path: Path,
    cache: Path,
    preparations: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, path = pku(tmp_path), tmp_path / "deep" / "mine" / "rows.jsonl"
    values = with_source(source, path=str(path))
    assert len(rows_of(values)) == len(rows_of(values)) == 40
    assert sorted(os.listdir(path.parent)) == ["README.md", "rows.jsonl"] and not (cache / "rows").exists()
    assert os.listdir(tmp_path / "deep") == ["mine"] and preparations == [source["name"]]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_source({**source, "seed": 1}, path=str(path))))
    assert main(["check", str(tmp_path / "mine.yaml")]) == 2
    said = capsys.readouterr().err
    assert "data.source" in said and f"remove {path.parent} to make it anew" in said and len(said.splitlines()) == 1
    Path(source["name"]).unlink()
    assert len(rows_of(values)) == 40  # they are all that is left of it


def test_check_makes_what_is_here_and_only_names_what_is_not(
    with_source: Callable[..., dict[str, Any]],
    tmp_path: Path,
    preparations: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def checked(source: Any) -> str:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_source(source)))
        assert main(["check", str(tmp_path / "mine.yaml")]) == 0
        return capsys.readouterr().out

    assert "40 rows of" in checked(trl(tmp_path)) and len(preparations) == 1
    for source, said in (
        ("beavertails", "`sipo run` makes them of beavertails\n"),
        ("owner/pairs", "`sipo run` makes them of owner/pairs; their number is not known, and so there is no plan"),
    ):
        text = checked(source)
        assert said in text and ("9000 train" in text) is (source == "beavertails")
    assert len(preparations) == 1


def test_relative_sources_are_the_file_s(
    with_source: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trl(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("SIPO_CACHE", "cache")
    for source in ("trl", "./trl", {"name": "trl"}):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_source(source)))
        config = load_config("../mine.yaml")
        assert config.data.source is not None and config.data.source.name == str(tmp_path / "trl")
        (tmp_path / "copy.yaml").write_text(dump_config(config))
        assert load_config("../copy.yaml") == config


FAILURES: dict[str, tuple[Any, str]] = {
    "no such file": ("nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
    "no such name": ("beavertials", "data.source: beavertials: no such file or folder; did you mean `beavertails`?"),
    "an empty folder": ("empty", "empty: no .jsonl, .json, .csv, .tsv, .parquet file in it"),
    "no such objective": ({"name": "FILE", "objectives": ["x"]}, "has no objective `x`; it has helpful, harmless"),
    "no such column": ({"name": "FILE", "map": {"prompt": "x"}}, "; map names columns among prompt"),
    "late in the file": ("LATE", "late.jsonl line 41: not JSON"),
}


@pytest.mark.parametrize(("source", "problem"), FAILURES.values(), ids=FAILURES.keys())
def test_a_wrong_source_is_one_line_and_leaves_nothing(
    source: Any,
    problem: str,
    with_source: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = Path(pku(tmp_path)["name"])
    late = tmp_path / "late.jsonl"
    late.write_text(file.read_text() + "{\n")
    (tmp_path / "empty").mkdir()
    text = json.dumps(with_source(source)).replace("FILE", file.name).replace("LATE", late.name)
    (tmp_path / "mine.yaml").write_text(text)
    before = all_but_locks(tmp_path)
    for verb in ("check", "run"):
        assert main([verb, str(tmp_path / "mine.yaml")]) == 2
        said = capsys.readouterr().err
        assert problem in said and "data.source" in said and len(said.splitlines()) == 1
    assert all_but_locks(tmp_path) == before


def test_an_interrupt_leaves_nothing(
    with_source: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    values = with_source(pku(tmp_path))
    before = all_but_locks(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("sipo.data.prepare.data_card", stop)
        with pytest.raises(KeyboardInterrupt):
            rows_of(values)
    assert all_but_locks(tmp_path) == before
    assert len(rows_of(values)) == 40


def test_a_kill_leaves_no_rows_and_the_next_run_makes_them(
    with_source: Callable[..., dict[str, Any]], tmp_path: Path, cache: Path
) -> None:
    values = with_source(pku(tmp_path))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    program = (
        "import os, signal, sys, sipo.data.prepare\n"
        "sipo.data.prepare.data_card = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from sipo.config.file import load_config\n"
        "from sipo.task import Task\n"
        "Task(load_config(sys.argv[1])).rows\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "mine.yaml")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    config = configured(values)
    assert not config.data.path.parent.exists()
    assert len(rows_of(values)) == 40
    assert sorted(os.listdir(config.data.path.parent)) == ["README.md", "rows.jsonl"]
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".tmp")] == []


def test_two_that_begin_together_make_rows_once(
    with_source: Callable[..., dict[str, Any]],
    tmp_path: Path,
    preparations: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting = sipo.data.making.prepare

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)  # the others arrive meanwhile
        return counting(*arguments)

    monkeypatch.setattr(sipo.data.making, "prepare", slow)
    data = configured(with_source(pku(tmp_path))).data
    assert data.source is not None
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(make_rows, data.path, data.source.name, data.source.choice, print) for _ in range(4)]
    assert [each.result() for each in futures] == [None] * 4 and len(preparations) == 1
    assert len(read_rows(data.path)) == 40
