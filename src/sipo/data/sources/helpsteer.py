"""HelpSteer and HelpSteer2: responses that people scored 0 to 4 for five attributes.

A prompt of several turns is one text there, with a line `<extra_id_1>User` or `<extra_id_1>Assistant` before each
turn but the first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sipo.data.context import in_context
from sipo.data.rows import Row
from sipo.data.sources.fields import answers as answers_of
from sipo.data.sources.fields import chat, number
from sipo.data.sources.interface import Answer, Dropped, Hub, Known, Record, Source, each
from sipo.data.sources.pairing import pairs
from sipo.message import Message

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LICENCE = "CC-BY-4.0"
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    return pairs(answers(records, asked))


def answers(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Answer | Dropped]:
    return each(records, _answer)


def turns(value: Mapping[str, Any]) -> tuple[Message, ...]:
    """The chat messages of a prompt."""
    found = chat(value, "prompt")
    if len(found) == 1:
        first, *others = TURN.split(found[0].content)
        first_turn = [Message("user", first)] if first or not others else []
        said = zip(others[::2], others[1::2], strict=True)
        found = (*first_turn, *(Message(role.lower(), words) for role, words in said))
    return in_context(value, found, own=("prompt",))


def _answer(record: Record) -> Iterator[Answer]:
    value = record.value
    scores = {name: number(value, name) for name in ATTRIBUTES}
    prompt, (response,) = answers_of(value, turns(value), "response")
    yield Answer(prompt, response, scores, record.split)


SOURCE = Source(
    "helpsteer",
    f"prompt, response, {', '.join(ATTRIBUTES)}",
    lambda value: value.keys() >= {"prompt", "response", *ATTRIBUTES},
    rows,
    (
        Known("helpsteer", (Hub("nvidia/HelpSteer"),), LICENCE),
        Known("helpsteer2", (Hub("nvidia/HelpSteer2"),), LICENCE),
    ),
    answers,
)
