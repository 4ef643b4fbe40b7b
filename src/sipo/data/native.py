"""The splits that a data set states: no prompt in two of them, and those it lacks taken from its training prompts.

Without a validation split, a tenth of the training prompts; without a test split, as many as validation has (SIPO,
section 4.1: 9:1 for BeaverTails; for HelpSteer, as many questions in test as in validation). Which ones, a seeded
hash of the prompt says.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf

from sipo.data.labels import SPLITS, Split
from sipo.data.rows import Row
from sipo.data.splits import position


class Native:
    """First every prompt's rows pass `of_one_prompt`; then `split` knows where they belong."""

    def __init__(self, seed: int, test_prompts: int | None = None) -> None:
        self.seed = seed
        self.test_prompts = test_prompts
        self.positions: dict[Split, array[float]] = {split: array("d") for split in SPLITS}
        self.named: set[Split] = set()

    def of_one_prompt(self, rows: list[Row], dropped: Counter[str]) -> list[Row]:
        """Those of the rows that are in the earliest split that any of them is in: training comes first."""
        if not rows:
            return rows
        self.named.update(row.split for row in rows if row.split)
        split = min((row.split or "train" for row in rows), key=SPLITS.index)
        kept = [row for row in rows if (row.split or "train") == split]
        if len(kept) < len(rows):
            dropped["a prompt that an earlier split has"] += len(rows) - len(kept)
        self.positions[split].append(position(rows[0].key, self.seed))
        return kept

    @property
    def stated(self) -> bool:
        """Whether there is more than one split; one alone says nothing."""
        return sum(map(bool, self.positions.values())) > 1

    @property
    def given_up(self) -> tuple[Split, ...]:
        """The splits that the source names in vain, training not alone: rows are left in one of them."""
        return tuple(split for split in SPLITS if split in self.named and not self.stated and self.named != {"train"})

    def split(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows in their splits, without those of test prompts beyond the number asked for."""
        if not self.stated:
            yield from (replace(row, split=None) for row in rows)
            return
        train, validation, test = (sorted(self.positions[split]) for split in SPLITS)
        taken = 0 if validation else len(train) // 10 or int(len(train) > 1)
        to_validation = _bound(train, taken)
        to_test = _bound(train, taken + (0 if test else min(len(validation) or taken, len(train) // 2)))
        last = inf if self.test_prompts is None else _bound(test, self.test_prompts)
        for row in rows:
            at, split = position(row.key, self.seed), row.split or "train"
            if split == "train" and at < to_test:
                split = "validation" if at < to_validation else "test"
            if split != "test" or row.split != "test" or at < last:
                yield replace(row, split=split)


def _bound(positions: list[float], count: int) -> float:
    """Above so many of the sorted positions."""
    return positions[count] if count < len(positions) else inf
