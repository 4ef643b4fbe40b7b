"""Policies of a stage made each by itself: the run that follows takes them, and ends as one that made them all."""

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import asking_briefly
from stores import BUCKET

import sipo
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.disk.copies import refreshed
from sipo.disk.parts import Part, gather
from sipo.disk.publishing import remove
from sipo.disk.run import RunFolder
from sipo.errors import SipoError


def contents(run: Path) -> dict[str, str]:
    """Every file of the stages, by content; not what tells of time."""
    files = [file for file in run.rglob("*") if file.is_file() and not file.relative_to(run).parts[0].startswith(".")]
    told = {"stage.json", "report.html", "metrics.jsonl", "subject.json", "config.yaml"}
    names = {str(file.relative_to(run)): file for file in files if file.name not in told}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in names.items() if "report" not in name}


@pytest.fixture(scope="module")
def whole(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a run that made all of it at once."""
    folder = tmp_path_factory.mktemp("whole")
    settings = asking_briefly(make_settings(folder), folder)
    settings["methods"] = ["base", "sipo"]
    settings.setdefault("execution", {})["train_together"] = 1  # neighbours in a step change the last bits
    sipo.run(parse_config(settings, "settings"), quiet=True)
    return settings


def config_of(whole: dict[str, Any], folder: Path, **changed: Any) -> Any:
    return parse_config({**whole, "run_dir": str(folder / "run"), **changed}, "settings")


def test_policies_made_each_alone_are_those_of_one_run(
    whole: dict[str, Any], tmp_path: Path, executed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(whole, tmp_path)
    with pytest.raises(SipoError, match=r"--only realign: its input `align` does not hold"):
        sipo.run(config, only="realign", objective="detail", quiet=True)
    for stage, until in (("align", "filter"), ("realign", None)):
        for name in config.names[::-1]:
            sipo.run(config, only=stage, objective=name, quiet=True)
        assert not (config.run_dir / stage).exists()
        trained = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").open()] if until is None else []
        assert not [each for each in trained if each["stage"] == stage]
        sipo.run(config, until=until, quiet=True)
        trained = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").open()]
        assert {each.get("objective") for each in trained if each["stage"] == stage} >= {*config.names}
    assert contents(config.run_dir) == contents(Path(whole["run_dir"]))
    assert not list((config.run_dir / ".partial").iterdir())
    sipo.run(config, only="align", objective="detail")
    assert "align: holds" in capsys.readouterr().out and executed.count("align") == 1


def test_a_policy_that_is_asked_for_alone_learns_alone(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, together = sys.modules["sipo.training.policies"], []
    train_together = policies.train_together

    def counting(bank: Any, trainees: Any, **named: Any) -> Any:
        together.append([trainee.job.name for trainee in trainees])
        return train_together(bank, trainees, **named)

    monkeypatch.setattr(policies, "train_together", counting)
    config = config_of(whole, tmp_path, execution={**whole["execution"], "train_together": 4})
    sipo.run(config, only="align", objective=config.names[1], quiet=True)
    assert len(together) == 1 and len(together[0]) == 1 and config.names[1] in together[0][0]
    sipo.run(config, until="align", quiet=True)
    assert sorted(map(len, together)) == [1, len(config.names)], "those that learn in the same steps do so together"


def test_a_part_that_was_stopped_goes_on_by_itself_or_in_the_whole(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(whole, tmp_path)
    align = sys.modules["sipo.stages.align"]
    labelled, asked = align.labelled, []

    def once(task: Any, rows: Any, objective: str, table: Any) -> Any:
        asked.append(objective)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return labelled(task, rows, objective, table)

    monkeypatch.setattr(align, "labelled", once)
    with pytest.raises(KeyboardInterrupt):
        sipo.run(config, only="align", objective="brevity", quiet=True)
    part = config.run_dir / ".partial" / "align@brevity"
    assert (part / ".journal" / "reference.jsonl").exists()
    sipo.run(config, until="align", quiet=True)
    assert not part.exists()
    mine, theirs = contents(config.run_dir), contents(Path(whole["run_dir"]))
    assert mine == {name: theirs[name] for name in mine} and "align/adapters/brevity/adapter_config.json" in mine


def test_a_part_of_other_settings_is_not_used(
    whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = config_of(whole, tmp_path, align={**whole["align"], "beta": 0.3})
    sipo.run(other, only="align", objective="detail", quiet=True)
    sipo.run(config_of(whole, tmp_path), until="align", quiet=True)
    assert "align@detail: was begun with other settings; it is not used" in capsys.readouterr().err
    mine, theirs = contents(other.run_dir), contents(Path(whole["run_dir"]))
    assert mine == {name: theirs[name] for name in mine}


def test_status_tells_which_parts_there_are(
    whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three trainings as an array: two are done, one is begun, at work, or not there."""
    tone = {"name": "tone", "better": "It is kind.", "reward": "sipo.rewards.text:words"}
    config = config_of(whole, tmp_path, objectives=[*whole["objectives"], tone])
    run = config.run_dir

    def status() -> tuple[Any, str]:
        assert main(["status", str(run)]) == 0
        text = capsys.readouterr().out
        assert main(["status", str(run), "--json"]) == 0
        return json.loads(capsys.readouterr().out), text

    for name in ("detail", "tone"):
        sipo.run(config, only="align", objective=name, quiet=True)
    told, text = status()
    (align,) = (each for each in told["stages"] if each["name"] == "align")
    assert (align["state"], align["parts"]) == ("partial", {"detail": "done", "brevity": "absent", "tone": "done"})
    assert "detail done, brevity absent, tone done" in text and "goes on" in text and told["now"] is None
    part = Part(RunFolder(run), "align", "brevity")
    with part.held():
        part.folder.begin(part.name, "a plan")
        told, text = status()
        assert told["now"] == ["align: brevity alone"] and told["next"] is None
        assert "brevity working" in text and "goes on" not in text
    assert "brevity stale" in status()[1]
    remove(part.place)
    sipo.run(config, until="align", quiet=True)
    told, text = status()
    assert not any(each["parts"] for each in told["stages"])


def test_in_a_store_each_part_is_made_by_a_machine_of_its_own(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], s3: Any
) -> None:
    place = f"s3://{BUCKET}/of-parts/run"

    def on(machine: str) -> Any:
        monkeypatch.setenv("SIPO_CACHE", str(tmp_path / machine))
        return parse_config({**whole, "run_dir": place}, "settings")

    def parts() -> dict[str, str]:
        on("reader")
        assert main(["status", place, "--json"]) == 0
        return next(each["parts"] for each in json.loads(capsys.readouterr().out)["stages"] if each["name"] == "align")

    sipo.run(on("one"), only="align", objective="brevity", quiet=True)
    assert parts() == {"detail": "absent", "brevity": "done"}
    sipo.run(on("two"), only="align", objective="detail", quiet=True)
    assert parts() == {"detail": "done", "brevity": "done"}
    config = on("three")
    sipo.run(config, until="align", quiet=True)
    trained = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").open()]
    assert {each["objective"] for each in trained if "objective" in each} == {"detail", "brevity"}
    assert parts() == {}
    config = on("four")
    refreshed(config.run_dir)
    sipo.Outputs(config.run_dir, config).folder.verify("align")
    mine, theirs = contents(config.run_dir), contents(Path(whole["run_dir"]))
    assert mine == {name: theirs[name] for name in mine} and "align/adapters/brevity/adapter_config.json" in mine
    there = s3.list_objects_v2(Bucket=BUCKET, Prefix="of-parts/run/parts")
    assert not there.get("Contents")
    sipo.run(config, only="align", objective="detail")
    assert "align: holds" in capsys.readouterr().out


def hold(run: Path, entered: Any, leave: Any) -> None:
    with Part(RunFolder(run), "align", "detail").held():
        entered.set()
        leave.wait(60)


def test_no_two_processes_make_the_same(whole: dict[str, Any], tmp_path: Path) -> None:
    config, context = config_of(whole, tmp_path), multiprocessing.get_context("fork")
    sipo.run(config, only="align", objective="detail", quiet=True)
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(config.run_dir, entered, leave))
    other.start()
    try:
        assert entered.wait(30)
        said = rf"another process \(process {other.pid} on .*\) is working on `detail` of align; wait for it"
        for more in ({"only": "align", "objective": "detail"}, {"until": "align"}):
            with pytest.raises(SipoError, match=said):
                sipo.run(config, quiet=True, **more)
        sipo.run(config, only="align", objective="brevity", quiet=True)
    finally:
        leave.set()
        other.join()
    sipo.run(config, until="align", quiet=True)
    assert (config.run_dir / "align" / "adapters" / "detail").is_dir()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"objective": "detail"}, "--objective detail: makes one policy of a stage; name that with --only"),
        ({"objective": "detail", "only": "nowhere"}, "`nowhere` is no stage of this run"),
        ({"objective": "wit", "only": "align"}, "--objective wit: is none of the run's, which are detail, brevity"),
        (
            {"objective": "detail", "only": "sample"},
            "`sample` trains no policy for each objective; align and realign do",
        ),
    ],
)
def test_what_cannot_be_made_alone(whole: dict[str, Any], tmp_path: Path, asked: dict[str, str], message: str) -> None:
    with pytest.raises(SipoError, match=message):
        sipo.run(config_of(whole, tmp_path), **asked)
    assert not (tmp_path / "run").exists()


def test_gathering_can_be_killed_at_any_place(tmp_path: Path) -> None:
    """A line stands before its folder, and lines that are there already are not doubled."""
    folder, into = RunFolder(tmp_path), tmp_path / ".partial" / "align"
    part = folder.begin("align@b", "plan")
    for place, unit in ((folder.begin("align", "plan"), b"0"), (part, b"1")):
        (place / ".journal").mkdir()
        (place / ".journal" / "policies.jsonl").write_bytes(b"check " + unit + b' {"result": 1}\n')
        (place / ".journal" / "reference.jsonl").write_bytes(b'check 0 {"result": 2}\n')
        (place / "adapters" / unit.decode()).mkdir(parents=True)
        (place / "adapters" / unit.decode() / "weights").write_bytes(unit)
    (into / ".journal" / "policies.jsonl").write_bytes(b'check 0 {"result": 1}\ncheck 1 {"result": 1}\n')
    assert gather(folder, "align", into, "plan") == ["b"]
    assert (into / ".journal" / "policies.jsonl").read_bytes() == b'check 0 {"result": 1}\ncheck 1 {"result": 1}\n'
    assert (into / ".journal" / "reference.jsonl").read_bytes() == b'check 0 {"result": 2}\n'
    assert (into / "adapters" / "1" / "weights").read_bytes() == b"1" and not part.exists()
    assert gather(folder, "align", into, "plan") == []
