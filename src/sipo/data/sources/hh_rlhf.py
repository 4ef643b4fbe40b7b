r"""HH-RLHF: `chosen` and `rejected` as whole transcripts, `\n\nHuman: ...\n\nAssistant: ...`, with one label a pair.

Its parts were labelled for different goals: a pair of helpful-base says nothing of harmlessness.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sipo.data.chats import UnusableError, transcript
from sipo.data.context import in_context
from sipo.data.rows import Row
from sipo.data.sources.fields import chat, chosen_first, take
from sipo.data.sources.interface import Dropped, Hub, Known, Record, Source, each
from sipo.message import Message

PARTS = {
    "helpful-base": "helpful",
    "helpful-online": "helpful",
    "helpful-rejection-sampled": "helpful",
    "harmless-base": "harmless",
}


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    def read(record: Record) -> Iterator[Row]:
        label = chosen_first(record._replace(part=PARTS.get(record.part, record.part)), asked)
        chosen, rejected = (_turns(record.value, column) for column in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise UnusableError("the two transcripts differ before the last turn")
        if {chosen[-1].role, rejected[-1].role} != {"assistant"}:
            raise UnusableError("a transcript that does not end with the assistant's turn")
        prompt = in_context(record.value, chosen[:-1], whole=True)
        yield Row(prompt, (chosen[-1].content, rejected[-1].content), label, record.split)

    return each(records, read)


def _turns(value: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    found = take(value, column)
    return transcript(found) if isinstance(found, str) else chat(value, column)


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:")


SOURCE = Source(
    "hh-rlhf",
    "chosen, rejected (transcripts)",
    lambda value: _is_transcript(value.get("chosen")) and _is_transcript(value.get("rejected")),
    rows,
    (
        Known(
            "hh-rlhf",
            (Hub("Anthropic/hh-rlhf", folder="helpful-base"), Hub("Anthropic/hh-rlhf", folder="harmless-base")),
            "MIT",
        ),
    ),
)
