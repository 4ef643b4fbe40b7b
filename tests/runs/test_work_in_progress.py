"""Damage to what a killed run left: it costs the units that it hit, is said in a line, and changes no result.

And stages made anew on purpose: what stood there is set aside, never deleted.
"""

import json
import random
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from damage import DAMAGES, Damage, files_of, results_of

from sipo.cli.main import main
from sipo.config.file import load_config
from sipo.disk.damage import stages_in
from sipo.disk.journal import Journal, resumable
from sipo.progress import Progress
from sipo.runs.pipeline import run
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.optimise import optimise

# Journals


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_costs_the_units_that_were_hit(
    tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is hit: the results are the same, and of what it cost is told."""
    done: list[int] = []

    def compute(unit: int) -> dict[str, Any]:
        done.append(unit)
        return {"unit": unit, "third": unit / 3, "text": "\u2028 \x85 \r\n" * (unit % 3)}

    def work(folder: Path) -> list[Any]:
        return resumable(Journal(folder, "x", Progress(quiet=True)), range(7), compute)

    expected, rng = work(tmp_path / "whole"), random.Random(damage.__name__)
    journal = tmp_path / "whole" / ".journal" / "x.jsonl"
    for _ in range(60):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        damaged = folder / ".journal" / "x.jsonl"
        damage(damaged, rng)
        content = damaged.read_bytes() if damaged.exists() else b""
        whole_lines = journal.read_bytes().startswith(content) and content[-1:] in (b"", b"\n")
        done.clear()
        capsys.readouterr()
        assert work(folder) == expected
        assert (f"{damaged}: " in capsys.readouterr().err) == (not whole_lines)
        assert len(done) <= (2 if damage.__name__ == "flipped" else 7), "two where it is the end of a line"
        done.clear()
        assert work(folder) == expected and done == [], "it is whole again"


def test_a_line_that_is_gone_or_moved_is_noticed(tmp_path: Path) -> None:
    def work() -> list[Any]:
        return resumable(Journal(tmp_path, "x", Progress(quiet=True)), "abcd", lambda unit: done.append(unit) or unit)

    done: list[str] = []
    work()
    journal = tmp_path / ".journal" / "x.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept, missing in (([0, 1, 3], "c"), ([3, 2, 1, 0], ""), ([0, 0, 1], "cd"), ([2], "abd")):
        journal.write_bytes(b"".join(lines[i] for i in kept))
        done.clear()
        assert work() == list("abcd") and done == list(missing)


def test_what_a_unit_wrote_besides_is_compared_too(tmp_path: Path) -> None:
    done: list[str] = []

    def compute(unit: str) -> str:
        done.append(unit)
        (tmp_path / unit).mkdir(exist_ok=True)
        (tmp_path / unit / "weights").write_text(unit * 10)
        return unit

    def work() -> list[str]:
        done.clear()
        return resumable(
            Journal(tmp_path, "x", Progress(quiet=True)), "abc", compute, writes=lambda unit: tmp_path / unit
        )

    work()
    (tmp_path / "b" / "weights").write_text("b" * 9 + "c")
    shutil.rmtree(tmp_path / "c")
    assert work() == list("abc") and done == ["b", "c"]
    assert (tmp_path / "b" / "weights").read_text() == "b" * 10


# Checkpoints


class Settings:
    epochs, batch_size, warmup, weight_decay, max_grad_norm = 2, 2, 0.1, 0.0, 1.0


def trained(path: Path | None, stop_at: int | None = None) -> torch.Tensor:
    parameter = torch.ones(3, requires_grad=True)

    def backward(batch: list[int]) -> dict[str, float]:
        loss = sum(((parameter - i) ** 2).sum() for i in batch)
        loss.backward()
        return {"loss": float(loss.detach())}

    def watch(record: dict[str, float]) -> None:
        if record["step"] == stop_at:
            raise KeyboardInterrupt

    try:
        checkpoint = Checkpoint(path, 0.0) if path else None
        optimise([parameter], 10, backward, Recipe(Settings(), 0.1, 0), job=Job(checkpoint=checkpoint, watch=watch))
    except KeyboardInterrupt:
        pass
    return parameter.detach()


@pytest.mark.parametrize("damage", [*DAMAGES, "another pickle"])
def test_a_damaged_checkpoint_is_not_gone_on_with(
    tmp_path: Path, damage: Damage | str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = tmp_path / "state.pt", trained(None)
    for attempt in range(4):
        path.unlink(missing_ok=True)
        trained(path, stop_at=6)
        if callable(damage):
            damage(path, random.Random(attempt))
        else:
            torch.save({"step": 3, "history": [], "code": print}, path)
        gone = not path.exists()
        capsys.readouterr()
        assert torch.equal(trained(path), expected)
        assert gone or f"{path}: the saved state of a training is damaged" in capsys.readouterr().err


# A whole run


@pytest.fixture(scope="module")
def pristine(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a configuration, its finished run, and one that was stopped while it made policies."""
    folder = tmp_path_factory.mktemp("pristine")
    settings = make_settings(folder)
    del settings["run_dir"]
    settings.setdefault("execution", {})["train_together"] = 1  # so that one policy is there while another learns
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "methods": ["base", "soups"]}))
    run(load_config(folder / "run.yaml", [f"run_dir={folder / 'run'}"]), quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        steps, step = [0], torch.optim.AdamW.step

        def stopping(self: Any, *values: Any) -> Any:
            steps[0] += 1
            if steps[0] == 12:  # the second policy has begun
                raise KeyboardInterrupt
            return step(self, *values)

        patch.setattr(torch.optim.AdamW, "step", stopping)
        assert main(["run", str(folder / "run.yaml"), "--run-dir", str(folder / "stopped")]) == 130
    return folder


def test_damage_to_work_in_progress_changes_no_result(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of each kind in turn: `status` tells something, and the run ends as it would have."""
    found = [file.relative_to(pristine / "stopped") for file in files_of(pristine / "stopped" / ".partial")]
    files = {file.suffix: file for file in found}
    assert files.keys() >= {".pt", ".jsonl", ".safetensors", ".parquet"}
    expected = results_of(pristine / "run")
    for number, file in enumerate(files.values()):
        stopped = shutil.copytree(pristine / "stopped", tmp_path / str(number))
        DAMAGES[number % len(DAMAGES)](stopped / file, random.Random(number))
        assert main(["status", str(stopped)]) == 0
        command = ["run", str(pristine / "run.yaml"), "--run-dir", str(stopped)]
        assert main([*command, "--only", "align"]) == 0, capsys.readouterr().err
        mine = results_of(stopped)
        assert mine and mine == {name: expected[name] for name in mine}
    capsys.readouterr()


def test_what_a_run_says_at_its_end_can_be_done(pristine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its methods are: sipo, which `generate` takes unless told otherwise, is none of them."""
    assert main(["run", str(pristine / "run.yaml"), "--run-dir", str(pristine / "run")]) == 0
    ask = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ask it"))
    assert main([*shlex.split(ask)[3:], "--max-tokens", "2"]) == 0, capsys.readouterr().err


# Stages made anew on purpose


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_from_a_stage_sets_aside_and_never_deletes(
    pristine: Path, tmp_path: Path, executed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped on the way, the old stages come back with the old settings; a successor takes its predecessor's place."""
    finished = shutil.copytree(pristine / "run", tmp_path / "run")
    command = ["run", str(pristine / "run.yaml"), "--run-dir", str(finished)]
    before = results_of(finished)
    kept = {
        stage.relative_to(finished).as_posix(): json.loads((stage / "stage.json").read_text())["fingerprint"]
        for stage in stages_in(finished)
    }
    asking = [name for name in kept if name not in ("compare", "report")]
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules["sipo.stages.compare"],
            "compare_rewards",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()),
        )
        assert main([*command, "--from", "align"]) == 130
    assert sorted(executed) == sorted([*asking, "compare"])
    aside = {each.name for each in (finished / ".superseded").iterdir()}
    assert aside >= {f"{name}-{kept[name]}" for name in ("compare", "report")}
    executed.clear()
    assert main(command) == 0
    assert executed == [], "what was set aside came back"
    assert main([*command, "--from", "compare"]) == 0
    assert executed == ["compare", "report"]
    assert not list((finished / ".superseded").rglob("stage.json"))
    assert results_of(finished) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "align", "--only", "report"], "--from align and --only report: give one"),
        (["--from", "align", "--only", "align"], "--from align and --only align: give one"),
        (["--from", "aline"], "`aline` is no stage"),
        (["--from", "align", "--set", "methods=[mod, nothing]"], "nothing"),
        (["--from", "align", "--set", "data.test=0"], "evaluate needs held-out prompts"),
        (["--only", "report", "--set", "align.beta=0.5"], "its input `align` does not hold"),
    ],
)
def test_what_is_refused_changes_nothing(
    pristine: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = shutil.copytree(pristine / "run", tmp_path / "run")
    before = {file: file.read_bytes() for file in files_of(finished)}
    assert main(["run", str(pristine / "run.yaml"), "--run-dir", str(finished), *options]) == 2
    assert said in capsys.readouterr().err
    assert {file: file.read_bytes() for file in files_of(finished)} == before


def test_a_stage_alone_in_a_new_folder_leaves_nothing(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(pristine / "run.yaml"), "--run-dir", str(tmp_path / "new" / "run")]
    assert main([*command, "--only", "compare"]) == 2
    assert "its input `align` does not hold; run without --only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
