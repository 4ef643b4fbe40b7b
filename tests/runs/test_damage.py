"""Whatever happens to the files of a finished run: it is found before it is used, named in a line, and made anew."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from damage import DAMAGES, Damage, cut, emptied, files_of, flipped, nulled, removed, results_of
from small import asking_briefly

from sipo.cli.main import main
from sipo.config.file import load_config
from sipo.disk import run as folder_module
from sipo.disk.damage import stages_in as stages_of_run
from sipo.disk.run import RunFolder
from sipo.errors import SipoError
from sipo.runs.pipeline import run

NAMES = ("detail", "brevity")
ASK = ["--weights", "detail=0.5,brevity=0.5", "--prompt", "tell me", "--max-tokens", "2", "--method", "soups"]


@pytest.fixture(scope="module")
def pristine(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a configuration and its finished run; to be copied, never touched."""
    folder = tmp_path_factory.mktemp("pristine")
    settings = asking_briefly(make_settings(folder), folder)
    del settings["run_dir"]
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "methods": ["base", "soups", "mod", "sipo"]}))
    run(load_config(folder / "run.yaml", [f"run_dir={folder / 'run'}"]), quiet=True)
    return folder


@pytest.fixture
def finished(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine / "run", tmp_path / "run")


def again(pristine: Path, finished: Path, *options: str) -> list[str]:
    return ["run", str(pristine / "run.yaml"), "--run-dir", str(finished), *options]


def stages_in(finished: Path) -> list[str]:
    return sorted(folder.relative_to(finished).as_posix() for folder in stages_of_run(finished))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_file_is_found_before_it_is_read(
    pristine: Path, finished: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` compares sizes; whoever reads a stage compares every byte of it, and names the file."""
    rng = random.Random(damage.__name__)
    for stage in stages_in(finished):
        for file in files_of(finished / stage):
            before = file.read_bytes()
            damage(file, rng)
            same_size = file.exists() and file.stat().st_size == len(before)
            with pytest.raises(SipoError, match="damaged") as found:
                RunFolder(finished).holds(
                    stage, RunFolder(pristine / "run").record(stage)["fingerprint"], every_byte=True
                )
                RunFolder(finished).verify(stage)
            assert str(file) in str(found.value) and "`sipo run " in str(found.value)
            assert main(["status", str(finished)]) in (0, 2)
            said = capsys.readouterr()
            assert "Traceback" not in said.err
            assert str(file) in said.out.replace("\n", "") + said.err or same_size
            file.write_bytes(before)
    assert main(["status", str(finished)]) == 0
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["subject.json", "config.yaml"])
def test_damage_of_what_the_run_is(
    finished: Path, damage: Damage, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(finished / name, random.Random(1))
    for command in (["status", str(finished)], ["generate", str(finished), *ASK]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"{finished / name}: damaged" in said


@pytest.mark.parametrize("damage", [cut, removed])
def test_a_run_s_own_configuration_is_run_only_as_it_was_written(
    pristine: Path, finished: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut, it may still make sense, and mean other settings. A damaged subject is written anew by any of the two."""
    own = ["run", str(finished / "config.yaml"), "--run-dir", str(finished)]
    before = results_of(finished)
    damage(finished / "subject.json", random.Random(2))
    assert main(own) == 0
    assert f"{finished / 'subject.json'}: damaged" in capsys.readouterr().err
    damage(finished / "config.yaml", random.Random(2))
    assert main(own) == 2
    assert main(again(pristine, finished)) == 0
    assert main(own) == 0
    assert results_of(finished) == before and not (finished / ".superseded").exists()


SOME: list[tuple[Damage, str]] = [
    (flipped, "align/adapters/detail/adapter_model.safetensors"),
    (cut, "sample/samples.jsonl"),
    (nulled, "score/logprobs.parquet"),
    (removed, "filter/stage.json"),
    (emptied, "compare/fronts.json"),
    (flipped, "subject.json"),
]


def test_a_run_makes_anew_what_is_damaged(pristine: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several at once; the damaged stages are set aside, and the rest holds."""
    for damage, name in SOME:
        damage(finished / name, random.Random(name))
    assert main(["generate", str(finished), *ASK]) == 2
    capsys.readouterr()
    assert main(again(pristine, finished)) == 0
    said = capsys.readouterr()
    assert all(str(finished / name) in said.err for _, name in SOME)
    assert "refine: holds" in said.out and "realign: holds" in said.out
    assert results_of(finished) == results_of(pristine / "run")
    aside = sorted(each.name for each in (finished / ".superseded").iterdir())
    assert aside == [f"{stage}-damaged-1" for stage in ("align", "compare", "filter", "sample", "score")]
    assert main(["generate", str(finished), *ASK]) == 0


def test_a_stage_alone_refuses_damaged_inputs(
    pristine: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped(finished / "sample" / "samples.jsonl", random.Random(1))
    shutil.rmtree(finished / "report")
    assert main(again(pristine, finished, "--only", "report")) == 2
    assert f"{finished / 'sample' / 'samples.jsonl'}: damaged (its content changed)" in capsys.readouterr().err
    assert main(["export", str(finished), "--weights", "detail=1,brevity=0", "--to", str(finished.parent / "x")]) == 0


def test_what_sipo_did_not_write_is_named_and_left(
    pristine: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a stage's folder it could be taken for a part of it; hidden files could not."""
    (finished / "align" / ".DS_Store").write_text("a desktop's")
    assert main(again(pristine, finished)) == 0
    note = finished / "align" / "adapters" / "notes.txt"
    note.write_text("mine")
    for command in (again(pristine, finished), ["generate", str(finished), *ASK]):
        assert main(command) == 2
        assert f"{note}: was not written by sipo; move it away" in capsys.readouterr().err
    assert note.read_text() == "mine"


def test_a_finished_run_that_cannot_be_written_to(
    pristine: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so that the folder is read-only is what the system says of it."""
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    monkeypatch.setattr("os.access", lambda path, mode, **_: not (mode == os.W_OK and Path(path) == finished))
    assert main(again(pristine, finished)) == 0
    said = capsys.readouterr().out
    assert "finished; the folder is read-only" in said and "take it  sipo export" in said
    assert main(again(pristine, finished, "--from", "report")) == 2
    assert "is read-only, and stage `report` is to be made" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before


def test_status_beside_a_run_that_moves_a_stage(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone between two looks, a stage is not damaged."""
    check = folder_module._check_files

    def moving(folder: Path, *values: object, **named: object) -> None:
        if folder == finished / "compare":
            RunFolder(finished).set_aside("compare")
        check(folder, *values, **named)

    monkeypatch.setattr(folder_module, "_check_files", moving)
    assert main(["status", str(finished)]) == 0
    said = capsys.readouterr().out
    assert "compare" in said and "absent" in said and "damaged" not in said


@pytest.mark.parametrize("name", ["run", "export", "reward"])
def test_a_place_whose_name_is_not_utf_8_is_refused_before_the_work(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The libraries that write there could not, after it."""
    place, model = tmp_path / os.fsdecode(b"\xe9t\xe9"), yaml.safe_load((pristine / "run.yaml").read_text())["model"]
    command = {
        "run": ["run", str(pristine / "run.yaml"), "--run-dir"],
        "export": ["export", str(pristine / "run"), "--weights", "detail=0.5,brevity=0.5", "--to"],
        "reward": ["reward", "train", "--data", str(pristine / "rows.jsonl"), "--model", model["path"], "--to"],
    }[name]
    assert main([*command, str(place / "out")]) == 2
    assert "its name is not UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
