"""Training, validation and test rows, decided for each prompt alone by a seeded hash.

Order, duplicates and other rows change nothing: a prompt's rows stay together, and stay where they are when
the data grow.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from sipo.data.rows import Row

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Splits:
    """Rows in the order of the file."""

    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)


def split_of(key: str, seed: int, validation: float, test: float) -> Split:
    """The split of a prompt by its key; `validation` and `test` are shares of the prompts, in [0, 1).

    Test comes first, so that a larger `validation` takes from train and never moves a test prompt.
    """
    digits = 13  # 52 bits, which a float holds exactly
    position = int(sha256(f"{seed}:{key}".encode()).hexdigest()[:digits], 16) / 16**digits
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def split_rows(rows: Iterable[Row], seed: int, validation: float, test: float) -> Splits:
    """Every row in the split of its prompt. Small data can leave a split empty."""
    splits = Splits()
    for row in rows:
        getattr(splits, split_of(row.key, seed, validation, test)).append(row)
    return splits
