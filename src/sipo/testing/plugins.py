"""What every method, filter rule, source and reward does, as tests.

class TestMine(MethodConformance):
    spec = MINE  # the MethodSpec, brought by an entry point of the package under test

Methods and filter rules go through a tiny run of seconds on the processor.
"""

import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sipo.config import Config
from sipo.config.file import dump_config, parse_config
from sipo.config.schema import keys_of
from sipo.data.rows import Row
from sipo.data.sources.interface import Dropped, Record, Source
from sipo.data.sources.registry import sources
from sipo.declare.parts import CANDIDATES, RESPONSES
from sipo.filters.registry import find as find_rule
from sipo.filters.spec import RuleSpec
from sipo.methods.registry import find as find_method
from sipo.methods.spec import MethodSpec
from sipo.rewards import Item, score_responses
from sipo.rewards.kinds.registry import kind_of
from sipo.rewards.objective import Objective
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.settings.section import Section
from sipo.task import Task
from sipo.testing.tiny import tiny_settings

HEAVY = ("torch", "transformers", "scipy")


def _is_light(module: str) -> None:
    """The configuration loads every plug-in, and `sipo status` must not wait for torch."""
    code = f"import sys, {module}; print([each for each in {HEAVY} if each in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == "[]", f"{module} imports {told.stdout.strip()} at its top; import them in functions"


def _explains_its_keys(section: str | None) -> None:
    for key in keys_of(Config):
        if section and key.place.startswith(f"{section}."):
            assert key.meaning, f"{key.place} has no docstring below it"


class MethodConformance:
    spec: ClassVar[MethodSpec]

    def test_what_it_declares(self) -> None:
        assert self.spec.says
        assert find_method(self.spec.name) is self.spec
        _explains_its_keys(self.spec.section)
        _is_light(self.spec.build.__module__)

    def test_it_answers_at_every_weight_and_alike_when_made_again(self, tmp_path: Path) -> None:
        settings = {**tiny_settings(tmp_path), "methods": [self.spec.name]}
        made: list[list[Any]] = []
        for name in ("one", "other"):
            config = parse_config({**settings, "run_dir": str(tmp_path / name)}, "tiny")
            folder = run(config, until=f"judged/{self.spec.name}", quiet=True)
            made.append(Outputs(folder, config).read(f"judged/{self.spec.name}", RESPONSES))
        assert made[0] == made[1], "it depends on more than the configuration"
        steered = {tuple(each.weights.values()) for each in made[0] if each.weights}
        weights = {tuple(weight) for weight in Task(config).weights}
        assert not self.spec.steered or steered == weights, f"it answers at {steered}"
        assert all(set(each.rewards) == set(config.names) for each in made[0])


class RuleConformance:
    spec: ClassVar[RuleSpec]

    def test_what_it_declares(self) -> None:
        assert self.spec.says
        assert find_rule(self.spec.name) is self.spec
        _explains_its_keys("filter")
        _is_light(self.spec.decide.__module__)

    def test_it_chooses_one_of_the_pool_at_most_and_alike_when_asked_again(self, tmp_path: Path) -> None:
        settings = {**tiny_settings(tmp_path), "methods": ["sipo"]}
        for pool in ("all", "kept", "rewrites"):
            config = parse_config({**settings, "filter": {"rule": self.spec.name, "pool": pool}}, "tiny")
            candidates = Outputs(run(config, until="filter", quiet=True), config).read("filter", CANDIDATES)
            again = Outputs(run(config, until="filter", only=None, quiet=True), config).read("filter", CANDIDATES)
            assert candidates == again
            for row, mine in groupby(candidates, key=lambda each: each.row):
                chosen = [each for each in mine if each.fate == "chosen"]
                assert len(chosen) <= 1, f"{row} has several"
                assert pool != "rewrites" or all(each.source == "rewrite" for each in chosen), "it is not in the pool"


class SourceConformance:
    spec: ClassVar[Source]
    records: ClassVar[Sequence[dict[str, Any]]]
    """A few as they are published."""
    objectives: ClassVar[tuple[str, ...]] = ()
    """As the user may have to name them."""
    part: ClassVar[str] = ""
    """What their file is called, where labels are named after it."""

    def test_it_is_the_one_that_reads_its_records(self) -> None:
        assert next(each for each in sources() if each.recognises(self.records[0])) is self.spec
        assert not self.spec.recognises({}), "it takes records of any columns"
        _is_light(self.spec.rows.__module__)

    def test_it_makes_rows(self) -> None:
        made, again = ([*self.spec.rows(self._records(), self.objectives)] for _ in range(2))
        assert made == again
        assert any(isinstance(each, Row) for each in made)
        for each in made:
            assert isinstance(each, Row | Dropped)
            assert isinstance(each, Dropped) or (all(each.responses) and each.preferred and each.prompt)

    def _records(self) -> list[Record]:
        return [Record(f"line {number}", dict(value), self.part) for number, value in enumerate(self.records, 1)]


class RewardConformance:
    reward: ClassVar[Any]
    """As `objectives[].reward` has it."""
    items: ClassVar[Sequence[tuple[str, str]]] = (("A prompt.", "Yes."), ("A prompt.", "No, not at all."))
    """Prompts and responses."""

    @pytest.fixture
    def objective(self) -> Objective:
        return Objective(name="mine", better="It is better.", reward=self.reward)

    def test_what_it_declares(self, objective: Objective) -> None:
        if isinstance(objective.reward, Section):
            kind = kind_of(objective.reward)
            assert kind.says
            _is_light(kind.settings.__module__)

    def test_it_gives_an_item_one_number_whatever_stands_beside_it(self, objective: Objective, tmp_path: Path) -> None:
        from sipo.message import Message

        items = [Item((Message("user", prompt),), response) for prompt, response in self.items]
        forward, backward = (
            score_responses([objective], order, cache=tmp_path / f"{number}.sqlite")["mine"]
            for number, order in enumerate((items, items[::-1]))
        )
        assert forward == pytest.approx(backward[::-1], rel=1e-4, abs=1e-6)

    def test_it_is_written_and_read_back(self, objective: Objective, tmp_path: Path) -> None:
        settings = tiny_settings(tmp_path)
        settings["objectives"][0]["reward"] = objective.model_dump(mode="json")["reward"]
        config = parse_config(settings, "tiny")
        assert config.objectives[0].reward == objective.reward
        assert "reward" in dump_config(config)
