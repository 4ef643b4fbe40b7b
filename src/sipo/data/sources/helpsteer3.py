"""HelpSteer3-Preference: a chat, two responses, and an overall preference from -3 (response 1) to 3 (response 2)."""

from collections.abc import Iterable, Iterator

from sipo.data.rows import Row
from sipo.data.sources.fields import better, number, pair, prompt
from sipo.data.sources.helpsteer import LICENCE
from sipo.data.sources.interface import Dropped, Hub, Known, Record, Source, each


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return each(records, _row)


def _row(record: Record) -> Iterator[Row]:
    value = record.value
    preference = better(0.0, number(value, "overall_preference"))
    asked, responses = pair(value, prompt(value, "context"), "response1", "response2")
    yield Row(asked, responses, {"overall": preference}, record.split)


SOURCE = Source(
    "helpsteer3",
    "context, response1, response2, overall_preference",
    lambda value: value.keys() >= {"context", "response1", "response2", "overall_preference"},
    rows,
    (Known("helpsteer3", (Hub("nvidia/HelpSteer3", config="preference"),), LICENCE),),
    own=("overall_preference",),
)
