"""What stages write, and how it is read back as what their functions returned.

Readers import what they need when they are called: a graph is there without torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.declare.stage import Part
from sipo.disk.tables import read_json, read_lines, read_records
from sipo.records import Candidate, Ranking, Refinement, Response, Sample

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.logprobs.table import LogprobTable


def _policies(places: Sequence[Path], objectives: Sequence[str]) -> "list[Policy]":
    from sipo.bank import load_policy

    return [load_policy(place / objective) for place in places for objective in objectives]


def _tried(places: Sequence[Path], objectives: Sequence[str]) -> "list[Policy]":
    return _policies([place for place in places if place.is_dir()], objectives)


def _distilled(places: Sequence[Path], _: Sequence[str]) -> "Policy":
    from sipo.bank import load_policy

    (place,) = places
    return load_policy(place)


def _logprobs(places: Sequence[Path], _: Sequence[str]) -> "LogprobTable":
    from sipo.logprobs.table import LogprobTable

    table = LogprobTable()
    for place in places:
        table.read(place)
    return table


def _place(places: Sequence[Path], _: Sequence[str]) -> Path:
    (place,) = places
    return place


def _records(kind: type[Any]) -> Any:
    return lambda places, _: [each for place in places for each in read_records(place, kind)]


def _json(places: Sequence[Path], _: Sequence[str]) -> Any:
    (place,) = places
    return read_json(place)


def _lines(places: Sequence[Path], _: Sequence[str]) -> list[dict[str, Any]]:
    return [each for place in places for each in read_lines(place)]


MODEL = Part("model", _place)
"""A fine-tuned backbone."""
POLICIES = Part("adapters", _policies)
"""An adapter for each objective, in their order."""
ADAPTERS = Part("adapters", _place)
"""Adapters by other names than the objectives'."""
DISTILLED = Part("adapters/preferred", _distilled)
"""A mixture at one weight, as one policy."""
TRAINING = Part("training.jsonl", _lines)
"""A record for each optimizer step."""
LOGPROBS = Part("logprobs.parquet", _logprobs)
SAMPLES = Part("samples.jsonl", _records(Sample))
REFINEMENTS = Part("refinements.jsonl", _records(Refinement))
CANDIDATES = Part("candidates.jsonl", _records(Candidate))
CHOICE = Part("filter.json", _json)
"""How sure the filter's choice is."""
CHOSE_NOTHING = (
    "The filter chose nothing in the last round, so its realignment had nothing to learn from and left the policies as "
    "they were: in a run of one round, sipo is what mod is."
)
"""What follows of a choice of nothing, in words for people."""
RESPONSES = Part("responses.jsonl", _records(Response))
AGREEMENT = Part("agreement.json", _json)
"""How far judges agree with labels."""
RANKINGS = Part("rankings.jsonl", _records(Ranking))
FRONTS = Part("fronts.json", _json)
TRIAL = Part(".", _place)
"""A folder with policies, how they were trained and their rates; without policies where the training diverged."""
TRIAL_POLICIES = Part("adapters", _tried)
"""The policies of a trial, none where its training diverged."""
PROPOSAL = Part("proposal.json", _json)
"""Which of MOD and soups validation proposes for use."""
STRENGTH = Part("strength.json", _json)
"""Every strength that was tried, and which was taken."""
