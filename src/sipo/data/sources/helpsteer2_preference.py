"""HelpSteer2-Preference: which of two responses people prefer, from -3 (response 1 much better) to 3 (response 2)."""

from collections.abc import Iterable, Iterator

from sipo.data.rows import Row
from sipo.data.sources.fields import better, number, pair
from sipo.data.sources.helpsteer import LICENCE, turns
from sipo.data.sources.interface import Dropped, Hub, Known, Record, Source, each


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return each(records, _row)


def _row(record: Record) -> Iterator[Row]:
    value = record.value
    strength = number(value, "preference_strength")
    prompt, responses = pair(value, turns(value), "response_1", "response_2")
    yield Row(prompt, responses, {"overall": better(0.0, strength)}, record.split)


SOURCE = Source(
    "helpsteer2-preference",
    "prompt, response_1, response_2, preference_strength",
    lambda value: value.keys() >= {"prompt", "response_1", "response_2", "preference_strength"},
    rows,
    (Known("helpsteer2-preference", (Hub("nvidia/HelpSteer2", folder="preference"),), LICENCE),),
    own=("preference_strength",),
)
