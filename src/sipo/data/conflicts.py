"""How much the objectives of a preference data set disagree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sipo.data.rows import Row, objectives_of


@dataclass(frozen=True)
class Lengths:
    """Of texts, in words (separated by white space)."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Lengths":
        words = [len(text.split()) for text in texts] or [0]
        return cls(min(words), median(words), max(words))


@dataclass(frozen=True)
class ConflictStatistics:
    """Counts and shares over all rows; a row is in conflict if two objectives prefer different responses."""

    rows: int
    prompts: int
    """Different prompts."""
    objectives: tuple[str, ...]
    ties: dict[str, int]
    """Null labels of each objective."""
    preferred: dict[str, tuple[int, int]]
    """How often each objective prefers response 0, and response 1."""
    conflict_ratio: float
    """Rows where any two objectives disagree, from 0 to 1 of all rows (ties included)."""
    pairwise: dict[str, dict[str, float]]
    """The same for every two objectives, both ways round."""
    prompt_words: Lengths
    response_words: Lengths

    def as_json(self) -> dict[str, Any]:
        lengths = {"prompt": vars(self.prompt_words), "response": vars(self.response_words)}
        return {
            "rows": self.rows,
            "prompts": self.prompts,
            "objectives": list(self.objectives),
            "ties": dict(self.ties),
            "preferred": {name: list(counts) for name, counts in self.preferred.items()},
            "conflict_ratio": self.conflict_ratio,
            "pairwise": {name: dict(others) for name, others in self.pairwise.items()},
            "lengths": {text: dict(words) for text, words in lengths.items()},
        }


def conflict_statistics(rows: Sequence[Row], objectives: Sequence[str] | None = None) -> ConflictStatistics:
    """Statistics of these objectives, or of all that the rows have; zeros where there are no rows."""
    names = objectives_of(rows) if objectives is None else tuple(objectives)
    labels = {name: [row.preferred.get(name) for row in rows] for name in names}
    return ConflictStatistics(
        rows=len(rows),
        prompts=len({row.key for row in rows}),
        objectives=names,
        ties={name: labels[name].count(None) for name in names},
        preferred={name: (labels[name].count(0), labels[name].count(1)) for name in names},
        conflict_ratio=_conflict_ratio(rows, names),
        pairwise={a: {b: _conflict_ratio(rows, (a, b)) for b in names if b != a} for a in names},
        prompt_words=Lengths.of(row.text for row in rows),
        response_words=Lengths.of(response for row in rows for response in row.responses),
    )


def _conflict_ratio(rows: Sequence[Row], objectives: Sequence[str]) -> float:
    return sum(row.conflicting(objectives) for row in rows) / max(len(rows), 1)
