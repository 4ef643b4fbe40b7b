r"""HH-RLHF: `chosen` and `rejected` as whole transcripts, `\n\nHuman: ...\n\nAssistant: ...`, with one label a pair.

Its parts were labelled for different goals: a pair of helpful-base says nothing of harmlessness.
"""

import re
from collections.abc import Iterable, Iterator

from sipo.data.chats import Message, UnusableError
from sipo.data.context import in_context
from sipo.data.rows import Row
from sipo.data.sources.fields import objective, text
from sipo.data.sources.interface import Dropped, Hub, Known, Record, Source, each

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
PARTS = {
    "helpful-base": "helpful",
    "helpful-online": "helpful",
    "helpful-rejection-sampled": "helpful",
    "harmless-base": "harmless",
}


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    def read(record: Record) -> Iterator[Row]:
        name = objective(record._replace(part=PARTS.get(record.part, record.part)), asked)
        chosen, rejected = transcript(text(record.value, "chosen")), transcript(text(record.value, "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise UnusableError("the two transcripts differ before the last turn")
        if {chosen[-1].role, rejected[-1].role} != {"assistant"}:
            raise UnusableError("a transcript that does not end with the assistant's turn")
        prompt = in_context(record.value, chosen[:-1], whole=True)
        yield Row(prompt, (chosen[-1].content, rejected[-1].content), {name: 0}, record.split)

    return each(records, read)


def transcript(said: str) -> tuple[Message, ...]:
    start, *turns = TURN.split(said)
    if start.strip() or not turns:
        raise UnusableError("a transcript that does not begin with Human: or Assistant:")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(Message(ROLES[role], content.removeprefix(" ")) for role, content in pairs)


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
