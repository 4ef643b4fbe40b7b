"""UltraFeedback: four models' completions of each instruction, rated 1 to 5 for four aspects, as text, or N/A."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sipo.data.chats import kind_of
from sipo.data.rows import Row
from sipo.data.sources.fields import number, prompt, take, text
from sipo.data.sources.interface import Answer, Dropped, Hub, Known, Record, Source, each
from sipo.data.sources.pairing import pairs_of
from sipo.errors import SipoError

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return each(records, lambda record: pairs_of(_answers(record)))


def answers(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Answer | Dropped]:
    return each(records, _answers)


def _answers(record: Record) -> list[Answer]:
    asked, completions = prompt(record.value, "instruction"), take(record.value, "completions")
    if not isinstance(completions, list) or not all(isinstance(each, dict) for each in completions):
        raise SipoError(f"column `completions` is {kind_of(completions)}; it must be a list of completions")
    return [Answer(asked, text(each, "response"), _scores(each), record.split) for each in completions]


def _scores(completion: Mapping[str, Any]) -> dict[str, float | None]:
    notes = take(completion, "annotations")
    if not isinstance(notes, dict):
        raise SipoError(f"column `completions` has annotations that are {kind_of(notes)}; they must be a mapping")
    ratings = {name: notes[name].get("Rating") if isinstance(notes.get(name), dict) else None for name in ASPECTS}
    return {name: number(ratings, name) for name in ASPECTS}


SOURCE = Source(
    "ultrafeedback",
    "instruction, completions",
    lambda value: value.keys() >= {"instruction", "completions"},
    rows,
    (Known("ultrafeedback", (Hub("openbmb/UltraFeedback"),), "MIT"),),
    answers,
)
