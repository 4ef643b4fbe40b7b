"""How far a run is, told while a process works on it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.disk.locking import LOCK, alone, worked_on
from sipo.disk.run import NOW
from sipo.runs.pipeline import run


@pytest.fixture
def begun(settings: dict[str, Any]) -> Path:
    return run(parse_config({**settings, "methods": ["base", "soups"]}, "here"), quiet=True, until="align")


def test_a_run_under_way_is_not_told_to_go_on(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (begun / NOW).exists()
    assert main(["status", str(begun)]) == 0 and "goes on" in capsys.readouterr().out
    with alone(begun):
        assert main(["status", str(begun)]) == 0
        text = capsys.readouterr().out
        assert "a process is working on it" in text and "goes on" not in text
        (begun / NOW).write_text(json.dumps({"said": ["align: helpful  3 of 9", "run 12%"]}))
        assert main(["status", str(begun)]) == 0
        assert "  align: helpful  3 of 9\n  run 12%" in capsys.readouterr().out
        (begun / NOW).write_text('{"said": ')
        assert main(["status", str(begun)]) == 0 and "a process is working" in capsys.readouterr().out


def test_watching_tells_what_is_new_and_ends_with_the_work(
    begun: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([[], ["3 of 9"], ["3 of 9"], ["4 of 9"], None, None])
    monkeypatch.setattr("sipo.cli.status.under_way", lambda _: next(said))
    monkeypatch.setattr("sipo.cli.status.EVERY", 0.0)
    assert main(["status", "--watch", str(begun)]) == 0
    text = capsys.readouterr().out
    assert text.count("3 of 9") == 1 == text.count("4 of 9") and "goes on" in text


def test_watching_waits_for_a_run_to_begin(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    monkeypatch.setattr("sipo.cli.status.time.sleep", lambda _: begun.rename(later))
    assert main(["status", "--watch", str(later)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{later}: there is none yet; waits") and "goes on" in said
    assert main(["status", str(tmp_path / "other")]) == 2, "which does not wait"
    assert main(["status", "--watch", str(tmp_path)]) == 2 and "holds no run" in capsys.readouterr().err


def test_watching_what_nobody_works_on_says_so(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--watch", str(begun)]) == 0
    said = capsys.readouterr().out
    assert "goes on" in said and "nobody works on it now; where a process still loads its model, ask again" in said


def test_who_is_gone_works_no_more(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = tmp_path / LOCK
    for text, works in (
        (f"process {os.getpid()} on {platform.node()}", True),
        (f"process {gone.pid} on {platform.node()}", False),
        (f"process {10**30} on {platform.node()}", False),
        (f"process {gone.pid} on another machine", True),
        ("", False),
        ("something else", False),
    ):
        lock.write_text(text)
        assert worked_on(tmp_path) is works, text
    lock.write_bytes(b"\xff")
    assert not worked_on(tmp_path) and not worked_on(tmp_path / "nowhere")


def test_scripts_are_told_as_well(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", str(begun)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["now"] is None and told["next"]
    with alone(begun):
        (begun / NOW).write_text(json.dumps({"said": ["align  3 of 9"]}))
        assert main(["status", "--json", str(begun)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["now"] == ["align  3 of 9"] and told["next"] is None
    assert main(["status", "--json", "--watch", str(begun)]) == 2 and "give one" in capsys.readouterr().err
