"""Works that nothing disturbed, for those that something does: runs, and what other commands write.

Of what shape the runs are is drawn from the seed, too.
"""

import json
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from chance import SEED, undisturbed
from damage import files_of
from small import write_rows

from sipo.cli.main import main

REWARDS = {"detail": "words", "brevity": "words", "tone": "distinct_words", "ease": "distinct_words", "wit": "words"}
"""Functions of sipo.rewards.text, by objective. Fewer words are better of the second."""
EVERYTHING = ["base", "policies", "soups", "mod", "lw", "modpo", "sipo", "sipo-soups"]


class Whole:
    """A finished run that nothing disturbed."""

    def __init__(self, folder: Path, settings: dict[str, Any], options: tuple[str, ...]) -> None:
        """`options` are the command's, each time."""
        self.folder, self.run, self.config, self.options = folder, folder / "run", folder / "run.yaml", options
        self.config.write_text(yaml.safe_dump({key: each for key, each in settings.items() if key != "run_dir"}))
        self.objectives = [each["name"] for each in settings["objectives"]]
        self.shares = ["--weights", ",".join(f"{name}={1 / len(self.objectives)}" for name in self.objectives)]
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
    """Runs with other keys than those of `small_settings`; a key whose value is None is left out. With a
    `count` of objectives they are of the seed's shape. One was made here: the model is proven, and what a fork works
    with is imported and read.
    """

    def make(name: str, *options: str, count: int = 0, **changes: Any) -> Whole:
        folder = tmp_path_factory.mktemp(name)
        settings = make_settings(folder)
        if count:
            settings = SHAPE.of(settings, count)
        settings |= changes
        return Whole(folder, {key: each for key, each in settings.items() if each is not None}, options)

    warm = tmp_path_factory.mktemp("warm")
    (warm / "run.yaml").write_text(yaml.safe_dump({**make_settings(warm), "methods": ["base", "mod"]}))
    assert main(["run", str(warm / "run.yaml")]) == 0
    return make


class Shape:
    """Of runs, as the seed has it."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"shape {seed}")
        self.count = rng.choice((2, 3, 5))
        self.layers = rng.choice(("all", "upper"))
        self.execution = {"train_together": rng.choice((1, 2, "auto")), "gradient_checkpointing": rng.random() < 0.5}
        self.quantise = "8bit" if rng.random() < 0.3 and find_spec("bitsandbytes") else None

    def __str__(self) -> str:
        keys = {"lora.layers": self.layers, **self.execution, "quantise": self.quantise}
        return ", ".join([f"{self.count} objectives", *(f"{name} {value}" for name, value in keys.items())])

    def of(self, settings: dict[str, Any], count: int) -> dict[str, Any]:
        """Those of a small run, in this shape, with so many objectives."""
        names = list(REWARDS)[:count]
        rows = Path(settings["data"]["path"])
        records = [json.loads(line) for line in rows.read_text().splitlines()]
        for number, record in enumerate(records):
            record["preferred"] |= {"ease": number // 2 % 2, "wit": number // 3 % 2}
        rows.write_text("".join(json.dumps(record) + "\n" for record in records))
        return {
            **settings,
            "model": {**settings["model"], "quantise": self.quantise},
            "objectives": [
                {
                    "name": name,
                    "better": f"It has more {name}.",
                    "reward": f"sipo.rewards.text:{REWARDS[name]}",
                    "direction": "minimize" if name == "brevity" else "maximize",
                }
                for name in names
            ],
            "weights": {"divisions": 2, "at_most": 6},
            "lora": {**settings["lora"], "layers": self.layers},
            "execution": {**settings["execution"], **self.execution},
        }


SHAPE = Shape(SEED)


@pytest.fixture(scope="session")
def whole(make_whole: Callable[..., Whole]) -> Whole:
    """Of eight methods, with two objectives."""
    return make_whole("whole", count=2, methods=EVERYTHING, filter={"rule": "calibrated"})


@pytest.fixture(scope="session")
def brief(make_whole: Callable[..., Whole]) -> Whole:
    """Of two methods, and short."""
    align = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    evaluate = {"bootstrap": 20, "prompts": 4}
    return make_whole("brief", count=SHAPE.count, methods=["base", "mod"], align=align, evaluate=evaluate)


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
