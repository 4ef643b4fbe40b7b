"""Pairs with a label a column, and sipo's own rows, which have them all in `preferred`."""

from collections.abc import Iterable, Iterator
from typing import Any

from sipo.data.chats import kind_of
from sipo.data.rows import Row
from sipo.data.sources.fields import label, pair, prompt
from sipo.data.sources.interface import Dropped, Record, Source, each
from sipo.errors import SipoError


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    def read(record: Record) -> Iterator[Row]:
        value = record.value
        said, responses = pair(value, prompt(value, "prompt"), "response_0", "response_1")
        yield Row(said, responses, _labels(value, asked), record.split)

    return each(records, read)


def _labels(value: dict[str, Any], asked: tuple[str, ...]) -> dict[str, int | None]:
    if "preferred" in value:
        labels = value["preferred"]
        if not isinstance(labels, dict):
            raise SipoError(f"column `preferred` is {kind_of(labels)}; it must be a mapping, such as {{'helpful': 0}}")
        return {name: label(labels, name) if not asked or name in asked else _seen(labels, name) for name in labels}
    if not asked:
        others = ", ".join(name for name in value if name not in ("prompt", "response_0", "response_1"))
        raise SipoError(
            "no column `preferred`; say which columns are labels, such as --map helpful=COLUMN; "
            f"it has {others or 'no other'}"
        )
    return {name: label(value, name) for name in asked}


def _seen(labels: dict[str, Any], name: str) -> int | None:
    """The label of an objective that was not asked for: whatever is wrong with it is no matter, its name may be."""
    try:
        return label(labels, name)
    except SipoError:
        return None


SOURCE = Source(
    "pairs",
    "prompt, response_0, response_1, and preferred or a column for each label",
    lambda value: value.keys() >= {"prompt", "response_0", "response_1"},
    rows,
    general=3,
)
