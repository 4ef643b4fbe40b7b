"""Works that nothing disturbed, for those that something does: runs, and what other commands write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chance import undisturbed
from damage import files_of
from small import write_rows

SHARES = ["--weights", "detail=0.5,brevity=0.5"]
EVERYTHING = ["base", "policies", "soups", "mod", "lw", "modpo", "sipo", "sipo-soups"]


class Whole:
    """A finished run that nothing disturbed."""

    def __init__(self, folder: Path, settings: dict[str, Any], options: tuple[str, ...]) -> None:
        """`options` are the command's, each time."""
        self.folder, self.run, self.config, self.options = folder, folder / "run", folder / "run.yaml", options
        self.config.write_text(yaml.safe_dump({key: each for key, each in settings.items() if key != "run_dir"}))
        self.seconds = undisturbed(self.into(self.run), folder / "log")
        self.start = undisturbed(self.into(self.run), folder / "log")
        """Seconds that the command takes where nothing is left to do."""

    def into(self, run: Path | str, *options: str) -> list[str]:
        """The command that makes it in another folder."""
        return ["run", str(self.config), "--run-dir", str(run), *self.options, *options]


@pytest.fixture(scope="session")
def make_whole(
    make_settings: Callable[[Path], dict[str, Any]], bank: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Whole]:
    """Runs with other keys than those of `small_settings`; a key whose value is None is left out. The model is proven,
    and what processes import is imported.
    """
    import sipo.stages.report  # noqa: F401

    def make(name: str, *options: str, **changes: Any) -> Whole:
        folder = tmp_path_factory.mktemp(name)
        settings = {**make_settings(folder), **changes}
        return Whole(folder, {key: each for key, each in settings.items() if each is not None}, options)

    return make


@pytest.fixture(scope="session")
def whole(make_whole: Callable[..., Whole]) -> Whole:
    """Of eight methods."""
    return make_whole("whole", methods=EVERYTHING, filter={"rule": "calibrated"})


@pytest.fixture(scope="session")
def brief(make_whole: Callable[..., Whole]) -> Whole:
    """Of two methods, and short."""
    align = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    return make_whole("brief", methods=["base", "mod"], align=align, evaluate={"bootstrap": 20, "prompts": 4})


def content_of(place: Path) -> dict[str, bytes]:
    """Of a file or folder; of a stage without its record, which tells seconds."""
    files = files_of(place) if place.is_dir() else [place]
    return {str(file.relative_to(place.parent)): file.read_bytes() for file in files if file.name != "stage.json"}


def whole_of(place: Path) -> dict[str, bytes]:
    """The same, and nothing is left hidden beside it."""
    assert not [each.name for each in place.parent.iterdir() if each.name.startswith(".")]
    return content_of(place)


def commands(folder: Path, model: Path) -> dict[str, list[str]]:
    """Without where to, which is the last argument."""
    rows = str(write_rows(folder))
    label = ["data", "label", "--prompts", rows, "--model", str(model), "--max-tokens", "40"]
    reward = ["reward", "train", "--data", rows, "--model", str(model), "--rank", "2", "--held-out", "0.3"]
    return {
        "prepare": ["data", "prepare", rows, "--to"],
        "convert": ["data", "convert", rows, "--to"],
        "label": [*label, "--objective", "words=sipo.rewards.text:distinct_words", "--to"],
        "reward": [*reward, "--epochs", "6", "--device", "cpu", "--batch-size", "4", "--to"],
    }


class Other:
    """A command of `commands`, what it makes undisturbed, and how many seconds it takes for it."""

    def __init__(self, name: str, folder: Path, model: Path) -> None:
        self.command, self.target = commands(folder, model)[name], "out.jsonl" if name == "label" else "out"
        self.seconds = undisturbed(self.into(folder / "whole"), folder / "log")
        self.whole = whole_of(folder / "whole" / self.target)

    def into(self, within: Path) -> list[str]:
        """To make it in that folder, which is new."""
        within.mkdir()
        return [*self.command, str(within / self.target)]
