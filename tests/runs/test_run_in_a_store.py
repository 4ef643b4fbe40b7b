"""A whole run in an object store: killed, it goes on from another machine; every command reads it there."""

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from damage import results_of
from driven import Driver, driving
from stores import BUCKET

import sipo
from sipo.cli.main import main
from sipo.config.file import load_config, parse_config
from sipo.disk.copies import _copy
from sipo.disk.manifest import read_manifest, write_manifest
from sipo.disk.objects import Objects
from sipo.places import path_of
from sipo.serve.naming import named_runs

NAME = f"s3://{BUCKET}/experiments/run"
SHARES = {"detail": 0.5, "brevity": 0.5}


@pytest.fixture(scope="module")
def driver(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(scope="module")
def made(
    make_settings: Callable[[Path], dict[str, Any]], driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], int]:
    """The same run in a folder; the settings; and how many touches of the store it takes in one."""
    folder = tmp_path_factory.mktemp("settings")
    settings = make_settings(folder)
    settings |= {"methods": ["base", "mod"], "weights": {"divisions": 1}, "evaluate": {"bootstrap": 20, "prompts": 2}}
    settings["align"] = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    assert driver.run(settings) == 0
    return Path(settings["run_dir"]), settings, folder


def expire(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of a process that was killed is over: nobody waits for it."""
    monkeypatch.setenv("SIPO_CACHE", str(machine))
    objects = Objects(path_of(NAME))
    known = read_manifest(objects)
    if known and known.holder:
        assert write_manifest(objects, replace(known, lease=-1.0))


@pytest.fixture(scope="module")
def finished(driver: Driver, made: tuple[Path, dict[str, Any], Path]) -> int:
    """The run, made in the store by several machines, each of which was killed; how many were."""
    _, settings, folder = made
    killed = 0
    for machine, touch in enumerate((8, 20, 30, None)):
        place = folder / f"machine-{machine}"
        status = driver.run({**settings, "run_dir": NAME}, touch, machine=str(place), lease=60.0)
        if status == 0:
            break
        assert status == -9
        killed += 1
        with pytest.MonkeyPatch.context() as patch:
            expire(place, patch)
        shutil.rmtree(place)  # what it had on its disk is lost with it
    assert status == 0
    return killed


@pytest.fixture
def reader(finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has never seen the run."""
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "reader"))
    yield
    _copy.cache_clear()


@pytest.mark.usefixtures("reader")
def test_killed_machines_are_followed_and_the_results_are_the_same(
    made: tuple[Path, dict[str, Any], Path], finished: int
) -> None:
    assert finished >= 2, "others went on where a machine was lost"
    run = sipo.open(NAME)
    for stage in run.path.rglob("stage.json"):
        sipo.Outputs(run.path, run.config).folder.verify(stage.parent.relative_to(run.path).as_posix())
    found = {name: digest for name, digest in results_of(run.path).items() if not name.startswith("distilled/")}
    assert found == results_of(made[0])


@pytest.mark.usefixtures("reader")
def test_every_command_reads_it(
    made: tuple[Path, dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*command: object) -> str:
        assert main([str(word) for word in command]) == 0, capsys.readouterr().err
        told = capsys.readouterr()
        assert str(tmp_path / "reader") not in told.out + told.err, "people are told of the store"
        return told.out

    status = json.loads(said("status", NAME, "--json"))
    assert status["run"] == NAME and status["done"] and status["now"] is None
    assert "done" in said("status", NAME)
    asked = ["--weights", "detail=0.5,brevity=0.5", "--prompt", "tell me", "--max-tokens", "3"]
    assert said("generate", NAME, *asked) == said("generate", made[0], *asked)
    assert f"sipo generate {NAME}" in said("choose", NAME, "--maximise", "detail")
    assert said("compare", NAME) == said("compare", made[0])
    for place, to in ((NAME, "there"), (made[0], "here")):
        said("export", place, "--weights", "detail=1,brevity=0", "--method", "soups", "--to", tmp_path / to)
    assert (tmp_path / "there" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "here" / "adapter_model.safetensors"
    ).read_bytes()
    ((name, path),) = named_runs([NAME]).items()
    assert name == "run" and sipo.open(path).at(SHARES).generate("tell me", max_new_tokens=3)
    assert named_runs([f"mine={NAME}"]).keys() == {"mine"}


@pytest.mark.usefixtures("reader")
def test_what_is_distilled_goes_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distil = ["export", NAME, "--weights", "detail=0.5,brevity=0.5", "--method", "mod", "--distil", "--to"]
    assert main([*distil, str(tmp_path / "here")]) == 0, capsys.readouterr().err
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "another"))
    capsys.readouterr()
    assert main(["status", NAME]) == 0
    assert "distilled/" in capsys.readouterr().out


@pytest.mark.usefixtures("reader")
def test_the_report_opens_from_there(s3: Any, store_address: str) -> None:
    about = s3.head_object(Bucket=BUCKET, Key="experiments/run/report/report.html")
    assert about["ContentType"] == "text/html; charset=utf-8"
    link = s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "experiments/run/report/report.html"})
    with urllib.request.urlopen(link) as page:
        text = page.read().decode()
    assert text.startswith("<!") and "</html>" in text and NAME in text


@pytest.mark.usefixtures("reader")
def test_its_own_configuration_goes_on_with_it_and_a_change_makes_its_own_anew(
    capsys: pytest.CaptureFixture[str], executed: list[str], tmp_path: Path
) -> None:
    again = ["run", f"{NAME}/config.yaml", "--run-dir", NAME]
    assert main(again) == 0 and executed == []
    assert load_config(Path(f"{NAME}/config.yaml")).run_dir == path_of(NAME)
    assert f"run_dir: {NAME}\n" in (path_of(NAME) / "config.yaml").read_text()
    assert main([*again, "--from", "compare"]) == 0 and executed == ["compare", "report"]
    capsys.readouterr()
    rows = (tmp_path / "rows.jsonl", load_config(f"{NAME}/config.yaml").data.path)
    rows[0].write_text(Path(rows[1]).read_text().replace("tell", "ask"))
    assert main([*again, "--set", f"data.path={rows[0]}"]) == 2
    assert f"error: {NAME}: holds a run with other" in capsys.readouterr().err
    assert main(["status", NAME]) == 0, "who was refused left it free"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["status", f"s3://{BUCKET}/nothing"], f"s3://{BUCKET}/nothing: holds no run; name the folder"),
        (["status", "s3://no-such-bucket-of-anybody/x"], "there is no such bucket"),
        (["data", "export", NAME, "--to", "nowhere"], f"{NAME}: has chosen no responses, because its methods are base"),
        (["generate", "gs://bucket/run", "--prompt", "x"], "gs://bucket/run: a run lies in a folder, or in a store"),
    ],
)
@pytest.mark.usefixtures("reader")
def test_what_is_wrong_is_one_line(command: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


FILE = f"s3://{BUCKET}/rows.jsonl"
LABELS = ["--objective", "a=sipo.rewards.text:words", "--model", "m"]


@pytest.mark.parametrize(
    "command",
    [
        ["init", "s3://bucket/run.yaml"],
        ["init", "@run.yaml", "--data", FILE],
        ["check", FILE.replace("jsonl", "yaml")],
        ["run", FILE.replace("jsonl", "yaml")],
        ["study", "methods", "--on", FILE.replace("jsonl", "yaml"), "--to", "@studies"],
        ["study", "methods", "--to", "s3://bucket/studies"],
        ["testbed", "--to", "s3://bucket/testbed"],
        ["data", "inspect", FILE],
        ["data", "prepare", FILE, "--to", "@rows"],
        ["data", "prepare", "pku-saferlhf-10k", "--to", "s3://bucket/rows"],
        ["data", "convert", FILE, "--to", "@rows"],
        ["data", "convert", "rows.jsonl", "--to", "s3://bucket/rows"],
        ["data", "label", "--prompts", FILE, "--to", "@rows.jsonl", *LABELS],
        ["data", "label", "--prompts", "p.jsonl", "--to", "s3://bucket/rows.jsonl", *LABELS],
        ["data", "export", NAME, "--to", "s3://bucket/rows"],
        ["reward", "train", "--data", FILE, "--model", "m", "--to", "@reward"],
        ["reward", "train", "--data", "rows.jsonl", "--model", "m", "--to", "s3://bucket/reward"],
        ["generate", NAME, "--prompts", FILE],
        ["generate", NAME, "--prompts", FILE.replace("jsonl", "txt")],
        ["serve", NAME, "--api-keys", FILE],
        ["play", NAME, "--api-keys", FILE],
        ["compare", FILE],
        ["export", NAME, "--weights", "detail=1", "--to", "s3://bucket/adapter"],
        ["export", NAME, "--weights", "detail=1", "--to-grpo", "s3://bucket/rewards"],
        ["export", NAME, "--weights", "detail=1", "--base", "s3://bucket/model", "--to", "@adapter"],
        ["push", "s3://bucket/adapter", "--to", "owner/name"],
        ["run", "@run.yaml", "--set", f"data.path={FILE}"],
        ["run", "@run.yaml", "--set", f"data.source={FILE}"],
        ["run", "@run.yaml", "--set", "model.path=s3://bucket/model"],
        ["check", "@run.yaml", "--set", "refine.review_template=https://host/review.txt"],
    ],
    ids=lambda command: " ".join(word for word in command if "--" not in word)[:50],
)
@pytest.mark.usefixtures("reader")
def test_a_command_that_wants_a_disk_says_so_in_a_line_and_leaves_nothing(
    command: list[str], made: tuple[Path, dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others read the run there (above)."""
    there = tmp_path / "there"
    there.mkdir()
    if command[1] == "@run.yaml" and command[0] != "init":
        (there / "run.yaml").write_text(json.dumps(made[1]))
    before = sorted(there.rglob("*"))
    assert main([word.replace("@", f"{there}/") for word in command]) == 2
    error = capsys.readouterr().err
    address = next(
        word.partition("=")[2] if "=s3" in word or "=https" in word else word
        for word in command
        if "://" in word and word != NAME
    )
    said = f"{address}: lies on no disk; the folder of a run may lie in an object store, and nothing else; name one on"
    assert said in error and error.count("\n") == 1
    assert sorted(there.rglob("*")) == before


@pytest.mark.usefixtures("reader")
def test_s3fs_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert main(["status", NAME]) == 2
    assert "needs packages that are not installed; `" in (told := capsys.readouterr().err) and "s3" in told


def test_check_looks_there_too(
    made: tuple[Path, dict[str, Any], Path], reader: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    objectives = [{**each, "better": "It differs."} for each in made[1]["objectives"]]
    settings = {**made[1], "run_dir": NAME, "objectives": objectives[::-1]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml")]) == 2
    assert f"{NAME}: holds a run with other" in capsys.readouterr().err


def test_a_live_run_is_seen_from_another_machine_and_a_second_one_is_refused(
    made: tuple[Path, dict[str, Any], Path],
    driver: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = f"s3://{BUCKET}/live/run"
    settings = {**made[1], "run_dir": place}
    driver.start(settings, machine=str(tmp_path / "first"), lease=60.0)
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "second"))
    from sipo.errors import SipoError
    from sipo.runs.pipeline import run

    def holder() -> bool:
        known = read_manifest(Objects(path_of(place)))
        return known is not None and known.held and "subject.json" in known.files

    began = time.monotonic()
    while not holder():
        assert time.monotonic() < began + 60
        time.sleep(0.05)
    assert main(["status", place]) == 0
    assert "a process is working on it" in capsys.readouterr().out
    with pytest.raises(SipoError, match=f"{place}: another process .* is working on this run; wait for it"):
        run(parse_config(settings, "settings"), quiet=True)
    assert driver.end() == 0
    _copy.cache_clear()
    assert main(["status", place]) == 0
    assert "a process is working on it" not in capsys.readouterr().out
