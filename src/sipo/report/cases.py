"""Rows side by side: what was given, what was drawn, what was said of it, and how the filter judged."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sipo.data import Row
from sipo.filters.contest import CHOSEN
from sipo.records import Candidate, Refinement, Sample
from sipo.report.inputs import Inputs
from sipo.report.parts import Card, Table, alike, shares
from sipo.report.rewards import TrueRewards
from sipo.rewards import Item


@dataclass(frozen=True)
class Case:
    """One row and its chosen candidate, or else the one that came nearest."""

    row: str
    prompt: str
    chosen: bool
    originals: list[Card]
    drafts: list[Card]
    """Sample, review and rewrite; empty where nothing was fit to be judged."""
    fate: str
    reasons: list[str]
    judges: Table | None
    """Rewards of the originals and the candidate, by judge."""
    better: bool | None = None
    """Is the chosen response truly better than both originals? None where it is not known."""

    def record(self) -> dict[str, Any]:
        """For the page's scripts; cards without what they lack."""
        cards = [[_short(card) for card in part] for part in (self.originals, self.drafts)]
        judges = [list(self.judges.columns), *self.judges.texts()] if self.judges else None
        return {
            "id": self.row, "prompt": self.prompt, "chosen": self.chosen, "better": self.better, "cards": cards,
            "fate": self.fate, "reasons": self.reasons, "judges": judges,
        }  # fmt: skip


Drawn = tuple[str, tuple[tuple[str, float], ...], int]
"""prompt, weights, index: what a sample and its refinement share"""


def cases(
    rows: Sequence[Row], inputs: Inputs, rewards: TrueRewards, truly: Mapping[str, bool], limit: int
) -> list[Case]:
    """At most `limit` rows in their order, those with a chosen response first."""
    by_row: dict[str, list[Candidate]] = defaultdict(list)
    for each in inputs.candidates:
        by_row[each.row].append(each)
    samples = {_drawn(each): each for each in inputs.samples}
    refinements = {_drawn(each): each for each in inputs.refinements}
    chosen = inputs.chosen
    shown = sorted(rows, key=lambda row: row.id not in chosen)[:limit]
    made = [
        _case(
            row, inputs.originals[row.id], chosen.get(row.id) or _nearest(by_row[row.id]), samples, refinements, rewards
        )
        for row in shown
    ]  # fmt: skip
    return [replace(each, better=truly.get(each.row)) for each in made]


def _nearest(candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the fewest reasons against it; of several, the one with the best mean."""

    def order(each: Candidate) -> tuple[int, float]:
        return len(each.reasons), math.inf if each.mean_reward is None else -each.mean_reward

    return min(candidates, key=order, default=None)


def _case(
    row: Row,
    texts: tuple[str, str],
    candidate: Candidate | None,
    samples: Mapping[Drawn, Sample],
    refinements: Mapping[Drawn, Refinement],
    rewards: TrueRewards,
) -> Case:
    originals = []
    for i, response in enumerate(texts):
        fans = [name for name, label in row.preferred.items() if label == i]
        notes = [f"preferred by {', '.join(fans)}"] if fans else []
        originals.append(Card(f"response {i}", response, rewards=rewards[Item(row.prompt, response)], notes=notes))
    if candidate is None:
        return Case(row.id, row.text, False, originals, [], "no candidate: every sample was empty", [], None)
    chosen = candidate.fate == CHOSEN
    drawn = _drawn(candidate)
    drafts = _drafts(row, samples[drawn], refinements.get(drawn), rewards)
    drafts = [_marked(card, chosen) if card.title == candidate.source else card for card in drafts]
    return Case(
        row.id, row.text, chosen, originals, drafts,
        f"{candidate.source} at {shares(candidate.weights)}: {candidate.fate}",
        list(candidate.reasons), judged(candidate),
    )  # fmt: skip


def _drafts(row: Row, sample: Sample, refinement: Refinement | None, rewards: TrueRewards) -> list[Card]:
    first = Card(
        "sample", sample.response, tokens=len(sample.tokens), cut=not sample.finished,
        rewards=rewards[Item(row.prompt, sample.response)],
    )  # fmt: skip
    if refinement is None:
        return [first]
    gains = zip(refinement.gains, alike(*refinement.gains.values()), strict=True)
    kept = "kept" if refinement.kept == "rewrite" else "not kept: no objective finds it better"
    return [
        first,
        Card("review", refinement.review),
        Card(
            "rewrite", refinement.rewrite, tokens=len(refinement.rewrite_tokens), cut=not refinement.rewrite_finished,
            rewards=rewards[Item(row.prompt, refinement.rewrite)],
            notes=[kept, "implicit gain on the sample: " + ", ".join(f"{name} {gain}" for name, gain in gains)],
        ),
    ]  # fmt: skip


def _marked(card: Card, chosen: bool) -> Card:
    """The card of the candidate that the case is about."""
    return replace(card, chosen=True) if chosen else replace(card, notes=["judged below", *card.notes])


def judged(candidate: Candidate) -> Table:
    """Reward by judge: the originals, the candidate, and whether it is better than both."""
    rows = [
        [judge, *candidate.originals[judge], mine, _better(candidate, judge)]
        for judge, mine in candidate.rewards.items()
    ]
    return Table(["judge", "response 0", "response 1", candidate.source, "better than both"], rows)


def _better(candidate: Candidate, judge: str) -> str:
    mine, others = candidate.rewards[judge], [each for each in candidate.originals[judge] if each is not None]
    if mine is None or len(others) < len(candidate.originals[judge]):
        return "refused"
    return "yes" if mine > max(others) else "no"


def _short(card: Card) -> dict[str, Any]:
    return {name: value for name, value in asdict(card).items() if value or name == "text"}


def _drawn(each: Sample | Refinement | Candidate) -> Drawn:
    return each.prompt, tuple(each.weights.items()), each.index
