"""TRL's preference format, in and out: `chosen` and `rejected`, with the prompt in a column or at the start of both.

Plain text or chat messages; one file holds one objective, and is named after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sipo.data.chats import UnusableError, agreed, said
from sipo.data.context import in_context, is_empty
from sipo.data.rows import Row
from sipo.data.sources.fields import chat, chosen_first, pair, prompt, take
from sipo.data.sources.interface import Dropped, Record, Source, each
from sipo.errors import SipoError
from sipo.message import Message

QUESTIONS = ("question", "query", "instruction", "user_prompt", "problem", "input", "context", "history", "messages")


def rows(records: Iterable[Record], asked: tuple[str, ...]) -> Iterator[Row | Dropped]:
    def read(record: Record) -> Iterator[Row]:
        said, responses = _parts(record.value)
        yield Row(said, responses, chosen_first(record, asked), record.split)

    return each(records, read)


def _parts(value: dict[str, Any]) -> tuple[tuple[Message, ...], tuple[str, str]]:
    chosen, rejected = (said(take(value, name), f"column `{name}`") for name in ("chosen", "rejected"))
    stated = chat(value, "prompt") if value.get("prompt") is not None else None
    if isinstance(chosen, tuple) and isinstance(rejected, tuple) and chosen[:1] and chosen[0].role != "assistant":
        shared = chosen[: _shared(chosen, rejected)]  # whole chats, whether the prompt stands apart as well or not
        one, other = (_answer(turns[len(shared) :]) for turns in (chosen, rejected))
        return in_context(value, agreed(shared, stated) if stated else shared, own=("prompt",), whole=True), (
            one,
            other,
        )
    if stated is not None or isinstance(chosen, tuple) or isinstance(rejected, tuple):
        return pair(value, prompt(value, "prompt"), "chosen", "rejected")
    length = _shared(chosen, rejected)
    if chosen[max(length - 1, 0) : length] == " " and length < min(map(len, (chosen, rejected))):
        length -= 1  # as TRL does: the space belongs to the answer
    _has_no_other_prompt(value, chosen[:length])
    asked = in_context(value, (Message("user", chosen[:length]),), own=QUESTIONS)
    return asked, (chosen[length:], rejected[length:])


def _has_no_other_prompt(value: dict[str, Any], shared: str) -> None:
    """Raise SipoError where a column looks like the prompt that is missing, and the answers do not begin with it."""
    for name in QUESTIONS:
        if name in value and not is_empty(value[name]) and str(value[name]).strip() not in shared:
            raise SipoError(f"has no column `prompt`, and `{name}` looks like one; say so, such as --map prompt={name}")


def _shared(chosen: Sequence[object], rejected: Sequence[object]) -> int:
    """How long the beginning is that both have."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))


def _answer(turns: tuple[Message, ...]) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise UnusableError("an answer that is not one turn of the assistant")
    return turns[0].content


def conversational(row: Row, chosen: int) -> dict[str, Any]:
    """Chat messages, the prompt in a column: what TRL advises."""
    one, other = _answers(row, chosen)
    return {"prompt": [turn._asdict() for turn in row.prompt], "chosen": [one], "rejected": [other]}


def conversational_implicit(row: Row, chosen: int) -> dict[str, Any]:
    """Chat messages, the prompt at the start of both."""
    prompt = [turn._asdict() for turn in row.prompt]
    one, other = _answers(row, chosen)
    return {"chosen": [*prompt, one], "rejected": [*prompt, other]}


def plain(row: Row, chosen: int) -> dict[str, Any]:
    """Text, the prompt in a column."""
    if [turn.role for turn in row.prompt] != ["user"]:
        raise SipoError("plain text has no place for a chat of several turns; use the format trl")
    return {"prompt": row.prompt[0].content, "chosen": row.responses[chosen], "rejected": row.responses[1 - chosen]}


def plain_implicit(row: Row, chosen: int) -> dict[str, Any]:
    """Text, the prompt at the start of both; where the answers begin alike, a reader cannot tell them from it."""
    record = plain(row, chosen)
    return {name: record["prompt"] + record[name] for name in ("chosen", "rejected")}


def _answers(row: Row, chosen: int) -> list[dict[str, str]]:
    return [Message("assistant", row.responses[index])._asdict() for index in (chosen, 1 - chosen)]


WRITERS: dict[str, Callable[[Row, int], dict[str, Any]]] = {
    "trl": conversational,
    "trl-implicit": conversational_implicit,
    "trl-plain": plain,
    "trl-plain-implicit": plain_implicit,
}

SOURCE = Source(
    "trl",
    "chosen, rejected, and prompt unless both begin with it",
    lambda value: value.keys() >= {"chosen", "rejected"},
    rows,
    general=2,
)
