"""Walks over configurations in one run's folder: whatever has been done to it, it ends as a fresh run would.

A step changes some keys, kills the run, takes a stage away, damages one or makes some anew. The oracle needs no
expectation of what a change makes anew: the tables of a fresh run with the last configuration are the right ones.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGES, files_of

from benchmarks.same_as import differences, tables
from sipo.config.file import parse_config
from sipo.disk import journal
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.runs import pipeline
from sipo.runs.pipeline import run
from sipo.runs.status import stage_statuses

Settings = dict[str, Any]

CHANGES: Mapping[str, tuple[Any, ...]] = {
    "methods": (
        ["base", "soups"],
        ["soups", "base", "mod"],
        ["sipo", "base"],
        ["mod", "sipo", "lw"],
        ["policies", "sipo-soups"],
        ["mod-alpha", "modpo", "base"],
        ["consensus", "factor-soups"],
    ),
    "rounds": (1, 2, 3),
    "filter": ("paper", "calibrated", "random", "rewards"),
    "refine.enabled": (True, False),
    "decoding.temperature": (0.0, 1.0),
    "evaluate.prompts": (None, 3, 100),
    "evaluate.per_prompt": (1, 2),
    "evaluate.reference_point": (None, {"detail": 0.0, "brevity": 40.0}),
    "evaluate.bootstrap": (50, 60),
    "evaluate.labels": (False, True),
    "weights.divisions": (2, 3),
    "sample.rows": ("conflicting", "all"),
    "sample.per_weight": (8, 2),
    "realign.start": ("copy", "merged"),
    "realign.lr": (0.001, "auto"),
    "align.checkpoint": ("last", "best"),
    "align.lr": (0.01, 0.02),
    "lora.r": (2, 3),
    "seed": (1, 2),
    "sft": (None, {"epochs": 1}, {"epochs": 1, "lora": {"r": 2}}, {"enabled": False}),
    "report.title": (None, "Mine"),
    "objectives": ("words", "longer", "edited"),
}
"""Keys, and the values that a step may give them."""


WORDS = {"better": "It says more.", "reward": "sipo.rewards.text:words"}
LESS = {"name": "brevity", "better": "It says less.", "reward": "sipo.rewards.text:words", "direction": "minimize"}
OBJECTIVES = {
    "words": [{"name": "detail", **WORDS}, LESS],
    "longer": [{"name": "detail", **WORDS, "reward": "sipo.rewards.text:distinct_words"}, LESS],
    "edited": [{"name": "detail", **WORDS, "better": "It has more to say."}, LESS],
}


class Killed(BaseException):
    """Ends a run as a signal does: whatever is in flight is lost."""


class Walk:
    """One folder, what has been done to it, and which stages runs of it made."""

    def __init__(self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self.settings, self.folder, self.random = settings, folder, random.Random(seed)
        self.told: list[str] = []
        self.made: list[str] = []
        self.units_left: int | None = None
        make, line = pipeline.Work._make, journal._line

        def watched(work: Any, stage: Any, *given: Any) -> None:
            self.made.append(stage.name)
            make(work, stage, *given)

        def counted(*given: Any) -> bytes:
            if self.units_left is not None:
                self.units_left -= 1
                if self.units_left < 0:
                    raise Killed
            return line(*given)

        monkeypatch.setattr(pipeline.Work, "_make", watched)
        monkeypatch.setattr(journal, "_line", counted)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def stages(self) -> list[str]:
        return Graph(self.config(self.run_dir)).names

    def there(self) -> list[str]:
        return [name for name in self.stages if (self.run_dir / name).exists()]

    def config(self, run_dir: Path) -> Any:
        return parse_config({**self.settings, "run_dir": str(run_dir)}, "settings")

    def go(self, **options: Any) -> None:
        run(self.config(self.run_dir), quiet=True, **options)

    def tell(self, what: str) -> None:
        self.told.append(what)

    # Steps

    def change(self) -> None:
        for key in self.random.sample(list(CHANGES), self.random.randint(1, 3)):
            value = self.random.choice(CHANGES[key])
            self.tell(f"{key}={value}")
            self.settings = changed(self.settings, key, value)

    def finish(self) -> None:
        self.tell("run")
        self.go()

    @contextmanager
    def killed(self) -> Iterator[None]:
        self.units_left = self.random.choice((0, 1, 3, 9, 30))
        self.tell(f"(killed after {self.units_left} units)")
        try:
            with suppress(Killed):
                yield
        finally:
            self.units_left = None

    def kill(self) -> None:
        self.tell("run")
        with self.killed():
            self.go()

    def start_from(self) -> None:
        name = self.random.choice([*self.stages, "answers", "judged"])
        self.tell(f"--from {name}")
        if self.random.random() < 0.5:
            with self.killed():
                self.go(start=name)
        if self.random.random() < 0.5:  # otherwise a plain run takes it from there
            self.go(start=name)

    def only(self) -> None:
        name = self.random.choice(self.stages)
        self.tell(f"--only {name}")
        with suppress(SipoError):
            self.go(only=name)

    def until(self) -> None:
        name = self.random.choice(self.stages)
        self.tell(f"until {name}")
        self.go(until=name)

    def lose(self) -> None:
        if there := self.there():
            name = self.random.choice(there)
            self.tell(f"{name} removed")
            shutil.rmtree(self.run_dir / name)

    def empty(self) -> None:
        if there := self.there():
            name = self.random.choice(there)
            self.tell(f"{name} emptied")
            shutil.rmtree(self.run_dir / name)
            (self.run_dir / name).mkdir()

    def damage(self) -> None:
        if there := self.there():
            name = self.random.choice(there)
            file = self.random.choice(files_of(self.run_dir / name))
            how = self.random.choice(DAMAGES)
            self.tell(f"{file.relative_to(self.run_dir)} {how.__name__}")
            how(file, self.random)

    def rename(self) -> None:
        if self.run_dir.exists():
            self.tell("renamed")
            self.folder = self.folder.rename(self.folder.with_name(f"{self.folder.name}x"))

    def forget(self) -> None:
        self.tell("no .superseded")
        shutil.rmtree(self.run_dir / ".superseded", ignore_errors=True)

    def walk(self, steps: int) -> None:
        some = [self.finish, self.kill, self.kill, self.start_from, self.only, self.until]
        some += [self.lose, self.empty, self.damage, self.rename, self.forget]
        for _ in range(steps):
            if self.random.random() < 0.8:
                self.change()
            self.random.choice(some)()
        self.finish()

    def verdict(self, fresh: Path) -> list[str]:
        """What is not as a fresh run of the last configuration has it; and what a second run would still make."""
        self.made.clear()
        undone = [each for each in stage_statuses(self.run_dir, self.config(self.run_dir)) if each.state != "done"]
        told = [f"status: {each.name} is {each.state}" for each in undone]
        self.go()
        told += [f"made once more: {name}" for name in self.made]
        run(self.config(fresh), quiet=True)
        mine, its = self.tables(self.run_dir), self.tables(fresh)
        return told + differences(its, mine)

    def tables(self, folder: Path) -> dict[str, str]:
        """Of the stages that the last configuration has; others may lie beside them."""
        kept = folder.with_name("kept")
        for name in self.stages:
            shutil.copytree(folder / name, kept / name)
        found = tables(kept)
        shutil.rmtree(kept)
        return found


def changed(settings: Settings, key: str, value: Any) -> Settings:
    if key == "objectives":
        return {**settings, "objectives": OBJECTIVES[value]}
    *sections, last = key.split(".")
    if not sections:
        return {**settings, last: value}
    return {**settings, sections[0]: {**settings.get(sections[0], {}), last: value}}


@pytest.fixture
def walked(
    make_settings: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Settings, int, int], None]:
    def check(changes: Settings, seed: int, steps: int) -> None:
        folder = tmp_path / "walk"
        folder.mkdir()
        settings = make_settings(tmp_path)
        settings = {**settings, **changes, "align": {**settings["align"], "epochs": 1}, "evaluate": {"prompts": 3}}
        walk = Walk(settings, folder, monkeypatch, seed)
        walk.walk(steps)
        assert not walk.verdict(tmp_path / "fresh"), f"seed {seed}: {'; '.join(walk.told)}"

    return check


def test_a_walk_ends_as_a_fresh_run(walked: Callable[[Settings, int, int], None]) -> None:
    walked({"methods": ["base", "soups"]}, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_walks_end_as_fresh_runs(walked: Callable[[Settings, int, int], None], seed: int) -> None:
    walked({"methods": ["sipo", "base"]}, 100 + seed, 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_walks_among_strengths_end_as_fresh_runs(walked: Callable[[Settings, int, int], None], seed: int) -> None:
    walked({"methods": ["sipo"], "realign": {"lr": "auto", "strengths": [0.1, 1.0]}}, 5 + seed, 3)
