"""What the report reads: the tables that the stages of this run wrote."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sipo.filters.contest import CHOSEN
from sipo.records import Candidate, Ranking, Refinement, Response, Sample


@dataclass(frozen=True)
class Inputs:
    """The tables, empty where a run without `sipo` has no such stage; of several rounds the last."""

    fronts: dict[str, Any]
    """As `fronts.json` has it."""
    responses: list[Response]
    training: dict[str, list[dict[str, Any]]]
    """The steps of every stage that trains, by stage."""
    ranked: list[Ranking] = field(default_factory=list)
    """Where held-out labels decide."""
    originals: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The two responses of the rows worked on, as the run uses them, by row id."""
    samples: list[Sample] = field(default_factory=list)
    refinements: list[Refinement] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    filter: dict[str, Any] = field(default_factory=dict)
    """As `filter.json` has it."""
    proposal: dict[str, Any] = field(default_factory=dict)
    """As `proposal.json` has it."""

    @cached_property
    def chosen(self) -> dict[str, Candidate]:
        """y_c by row id."""
        return {each.row: each for each in self.candidates if each.fate == CHOSEN}
