"""A run whose stages are of several settings, and folders where files should be: nothing is taken for what it is not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from damage import results_of

from sipo.cli.main import main

SHARES = ["--weights", "detail=0.5,brevity=0.5"]


@pytest.fixture(scope="module")
def pristine(make_settings: Callable[[Path], dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a configuration and its finished run; to be copied, never touched."""
    folder = tmp_path_factory.mktemp("pristine")
    settings = {**make_settings(folder), "methods": ["base", "soups"]}
    del settings["run_dir"]
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", str(folder / "run.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def finished(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine / "run", tmp_path / "run")


@pytest.fixture
def again(pristine: Path, finished: Path) -> Callable[..., int]:
    return lambda *options: main(["run", str(pristine / "run.yaml"), "--run-dir", str(finished), *options])


def test_a_card_has_the_numbers_of_its_own_settings_alone(finished: Path, again: Callable[..., int]) -> None:
    def card(name: str) -> str:
        assert main(["export", str(finished), *SHARES, "--to", str(finished.parent / name)]) == 0
        return (finished.parent / name / "README.md").read_text()

    assert "Mean true reward on held-out prompts" in card("before")
    assert again("--set", "align.lr=0.02", "--only", "align") == 0  # as a run that is stopped early leaves it
    assert "The run was not evaluated" in card("after")


def test_a_stage_alone_is_not_made_anew_from_inputs_of_other_settings(
    finished: Path, again: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert again("--set", "evaluate.bootstrap=60", "--only", "compare") == 0
    capsys.readouterr()
    assert again("--only", "report") == 2
    assert "its input `compare` does not hold" in capsys.readouterr().err


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_file(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("mine")


@pytest.mark.parametrize("place", ["align/stage.json", "compare", "report", "compare/fronts.json", "align/adapters"])
def test_a_folder_for_a_file_in_a_stage_is_damage(
    pristine: Path, finished: Path, place: str, again: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (as_file if (finished / place).is_dir() else as_folder)(finished / place)
    assert main(["status", str(finished)]) == 0
    assert f"{finished / place}" in capsys.readouterr().out.replace("\n", "")
    assert again() == 0
    assert f"{finished / place}" in capsys.readouterr().err
    assert results_of(finished) == results_of(pristine / "run")
    assert any((finished / ".superseded").iterdir())


@pytest.mark.parametrize("place", ["config.yaml", "subject.json", ".partial", ".superseded"])
def test_a_folder_for_a_file_of_the_run_is_named(
    finished: Path, place: str, again: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a user's: nothing of it is removed."""
    (as_file if place.startswith(".") else as_folder)(finished / place)
    assert again("--from", "report") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{finished / place}: " in last and "move it away" in last
    assert (finished / place).exists()
