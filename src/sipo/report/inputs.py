"""What the report reads: the tables that the stages of this run wrote."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sipo.config import Config
from sipo.disk.tables import read_json, read_lines, read_records
from sipo.filters.contest import CHOSEN
from sipo.records import Candidate, Refinement, Response, Sample
from sipo.runs.folder import RunFolder
from sipo.runs.plan import stages_of

TRAINING = ("align", "lw", "modpo", "raco", "consensus", "realign")


@dataclass(frozen=True)
class Inputs:
    """The tables, empty where a run without `sipo` has no such stage."""

    fronts: dict[str, Any]
    """As `fronts.json` has it."""
    responses: list[Response]
    training: dict[str, list[dict[str, Any]]]
    """The steps of every stage that trains, by stage."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`stage.json` of every stage before this one."""
    originals: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The two responses of the rows worked on, as the run uses them, by row id."""
    samples: list[Sample] = field(default_factory=list)
    refinements: list[Refinement] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    filter: dict[str, Any] = field(default_factory=dict)
    """As `filter.json` has it."""

    @cached_property
    def chosen(self) -> dict[str, Candidate]:
        """y_c by row id."""
        return {each.row: each for each in self.candidates if each.fate == CHOSEN}


def read_inputs(run: Path, config: Config) -> Inputs:
    """The tables of the run's own stages; folders of stages that it no longer has are left alone."""
    names = [stage.name for stage in stages_of(config) if stage.name != "report"]
    for name in names:
        RunFolder(run).verify(name)
    sipo: dict[str, Any] = {}
    if "filter" in names:
        sipo["samples"] = read_records(run / "sample" / "samples.jsonl", Sample)
        if "refine" in names:
            sipo["refinements"] = read_records(run / "refine" / "refinements.jsonl", Refinement)
        sipo["candidates"] = read_records(run / "filter" / "candidates.jsonl", Candidate)
        sipo["filter"] = read_json(run / "filter" / "filter.json")
    return Inputs(
        fronts=read_json(run / "evaluate" / "fronts.json"),
        responses=read_records(run / "evaluate" / "responses.jsonl", Response),
        training={name: read_lines(run / name / "training.jsonl") for name in TRAINING if name in names},
        stages={name: RunFolder(run).record(name) for name in names},
        **sipo,
    )
