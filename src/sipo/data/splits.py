"""Training, validation and test rows: as the data set states them, else for each prompt alone by a seeded hash.

Order, duplicates and other rows change nothing: a prompt's rows stay together, and stay where they are when
the data grow.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from sipo.data.labels import Split
from sipo.data.rows import Row


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
    at = position(key, seed)
    if at < test:
        return "test"
    return "validation" if at < test + validation else "train"


def position(key: str, seed: int) -> float:
    """Where a prompt stands in the seeded order of all prompts, uniform in [0, 1)."""
    digits = 13  # 52 bits, which a float holds exactly
    return int(sha256(f"{seed}:{key}".encode()).hexdigest()[:digits], 16) / 16**digits


def folds_of(rows: Iterable[Row], folds: int, seed: int) -> dict[str, int]:
    """The fold, 0 to folds - 1, of each prompt by its key; as even as can be."""
    keys = sorted({row.key for row in rows}, key=lambda key: position(key, seed))
    return {key: at % folds for at, key in enumerate(keys)}


def split_rows(rows: Iterable[Row], seed: int, validation: float, test: float) -> Splits:
    """Every row in its own split, or where it has none in that of its prompt. Small data can leave a split empty."""
    splits = Splits()
    for row in rows:
        getattr(splits, row.split or split_of(row.key, seed, validation, test)).append(row)
    return splits
