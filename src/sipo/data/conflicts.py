"""How much the objectives of a preference data set disagree."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from sipo.data.rows import Row


@dataclass(frozen=True)
class Lengths:
    """Of texts, in words (separated by white space)."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, counts: Counter[int]) -> "Lengths":
        words = sorted(counts.elements()) or [0]
        return cls(words[0], median(words), words[-1])


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
    labels: dict[tuple[int | None, ...], int]
    """How many rows have which labels, in the order of `objectives`."""

    def ratio(self, objectives: Iterable[str]) -> float:
        """The conflict ratio of some of the objectives."""
        return _ratio(self.labels, [self.objectives.index(name) for name in objectives], self.rows)

    def by_size(self) -> list[tuple[int, float, float, float]]:
        """For 2 .. N objectives: how many, the ratio of the first so many, the least and largest of any so many."""
        sizes = range(2, len(self.objectives) + 1)
        found = {size: [self.ratio(names) for names in combinations(self.objectives, size)] for size in sizes}
        return [(size, ratios[0], min(ratios), max(ratios)) for size, ratios in found.items()]

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


def conflict_statistics(rows: Iterable[Row], objectives: Sequence[str] | None = None) -> ConflictStatistics:
    """Statistics of these objectives, or of all that the rows have; zeros where there are no rows.

    Goes through the rows once; what it holds are counts, and a key for each prompt. Ratios are from 0 to 1 of all rows.

    >>> sipo.conflict_statistics(sipo.read_rows("rows.jsonl"), ["detail", "plain"]).conflict_ratio
    0.5
    """
    seen: Counter[tuple[tuple[str, int | None], ...]] = Counter()
    prompts: set[str] = set()
    words: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    for row in rows:
        seen[tuple(row.preferred.items())] += 1
        prompts.add(row.key)
        words[0][len(row.text.split())] += 1
        words[1].update(len(response.split()) for response in row.responses)
    names = tuple(dict.fromkeys(name for labels in seen for name, _ in labels) if objectives is None else objectives)
    labels: Counter[tuple[int | None, ...]] = Counter()
    for pairs, count in seen.items():
        labels[tuple(dict(pairs).get(name) for name in names)] += count
    of = {name: Counter[int | None]() for name in names}
    for row_labels, count in labels.items():
        for name, label in zip(names, row_labels, strict=True):
            of[name][label] += count
    total = seen.total()
    return ConflictStatistics(
        rows=total,
        prompts=len(prompts),
        objectives=names,
        ties={name: of[name][None] for name in names},
        preferred={name: (of[name][0], of[name][1]) for name in names},
        conflict_ratio=_ratio(labels, range(len(names)), total),
        pairwise={
            a: {b: _ratio(labels, (i, j), total) for j, b in enumerate(names) if b != a} for i, a in enumerate(names)
        },
        prompt_words=Lengths.of(words[0]),
        response_words=Lengths.of(words[1]),
        labels=dict(labels),
    )


def _ratio(labels: Mapping[tuple[int | None, ...], int], columns: Iterable[int], rows: int) -> float:
    columns = list(columns)
    conflicts = sum(count for each, count in labels.items() if {0, 1} <= {each[column] for column in columns})
    return conflicts / max(rows, 1)
