"""Preference data: rows with a label for each objective, their conflicts and their splits."""

from sipo.data.conflicts import ConflictStatistics, Lengths, conflict_statistics
from sipo.data.labels import Split
from sipo.data.prompts import read_prompts, read_split_prompts
from sipo.data.rows import Row, objectives_of, read_rows, write_rows
from sipo.data.splits import Splits, folds_of, split_of, split_rows
from sipo.data.subset import conflict_subset

__all__ = [
    "ConflictStatistics",
    "Lengths",
    "Row",
    "Split",
    "Splits",
    "conflict_statistics",
    "conflict_subset",
    "folds_of",
    "objectives_of",
    "read_prompts",
    "read_rows",
    "read_split_prompts",
    "split_of",
    "split_rows",
    "write_rows",
]
