"""SHP, Stanford's human preferences: two comments on a post, and which one readers prefer; its label 1 means A."""

from collections.abc import Iterable, Iterator

from sipo.data.rows import Row
from sipo.data.sources.fields import label, pair, prompt
from sipo.data.sources.interface import Dropped, Record, Source, each


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return each(records, _row)


def _row(record: Record) -> Iterator[Row]:
    value = record.value
    prefers_a = label(value, "labels")
    post, responses = pair(value, prompt(value, "history"), "human_ref_A", "human_ref_B")
    yield Row(post, responses, {"helpful": None if prefers_a is None else 1 - prefers_a}, record.split)


SOURCE = Source(
    "shp",
    "history, human_ref_A, human_ref_B, labels",
    lambda value: value.keys() >= {"history", "human_ref_A", "human_ref_B", "labels"},
    rows,
    own=("labels",),
)
