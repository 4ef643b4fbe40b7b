"""Columns that belong to the prompt beside the one that holds the question: read into it, or refused; never dropped.

A system text comes first, earlier turns next; in the user's last turn a context stands before the question, an input
after it. What a text model cannot read (images, sound, tools) stops the reading.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Literal

from sipo.data.chats import UnusableError, deserialised, kind_of, said
from sipo.errors import SipoError
from sipo.message import Message

Part = Literal["system", "history", "context", "input", "foreign"]
NAMES: dict[Part, tuple[str, ...]] = {
    "system": ("system", "system_prompt", "system_message", "system_instruction", "system_text", "sys_prompt"),
    "history": ("history", "chat_history", "conversation_history", "previous_turns"),
    "context": ("context", "contexts", "document", "documents", "passage", "passages"),
    "input": ("input",),
    "foreign": (
        *("image", "images", "image_url", "image_urls", "image_path", "pixel_values", "video", "videos"),
        *("audio", "audios", "tools", "tool_definitions", "functions", "available_tools"),
    ),
}  # fmt: skip
PARTS: dict[str, Part] = {name: part for part, names in NAMES.items() for name in names}
NO_LIST = ("[]", "{}", "null", "none", "nan", "[null]", "[none]")


def part_of(column: str) -> Part | None:
    """What part of a prompt a column of this name is, if any; case, spaces and dashes aside."""
    name = re.sub(r"[\s-]+", "_", column.strip().casefold())
    return "system" if name.endswith("_system_prompt") else PARTS.get(name)


def in_context(
    record: Mapping[str, Any], prompt: tuple[Message, ...], own: Collection[str] = (), whole: bool = False
) -> tuple[Message, ...]:
    """The prompt with what the record's other columns add to it; `own` are those that it was made of.

    A prompt that is `whole`, taken from whole chats, has all of it but perhaps the system turn. Raises UnusableError
    where a column disagrees with the prompt, SipoError where it cannot be read.
    """
    parts = [(column, part) for column in record if column not in own and (part := part_of(column))]
    found = {name: [c for c, each in parts if each == name and not _is_absent(record[c], name)] for name in NAMES}
    for column in found["foreign"]:
        raise SipoError(
            f"column `{column}` belongs to the prompt and is no text ({kind_of(record[column])}); "
            "leave such rows out, or remove the column where the answers do not need it"
        )
    order: tuple[Part, ...] = ("input", "context", "history", "system")
    for part in order:
        if len(found[part]) > 1:
            raise SipoError(f"the columns {' and '.join(found[part])} are both the prompt's {part}; keep one")
        for column in found[part]:
            prompt = _added(prompt, part, record[column], column, whole)
    return prompt


def is_empty(value: object) -> bool:
    """Whether a value says nothing."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, list | tuple | dict) and all(is_empty(each) for each in value)


def _is_absent(value: object, part: Part) -> bool:
    """An input may well be the text `null`; a list of images that CSV holds as one is none."""
    serialised = isinstance(value, str) and part not in ("system", "input")
    return is_empty(value) or (serialised and str(value).strip().casefold() in NO_LIST)


def _added(prompt: tuple[Message, ...], part: Part, value: object, column: str, whole: bool) -> tuple[Message, ...]:
    if part == "history" or (part == "context" and not isinstance(_said(value, column), str)):
        earlier = _turns(value, column)
        if prompt[: len(earlier)] == earlier or (prompt and prompt[1 : 1 + len(earlier)] == earlier):
            return prompt
        _refuse(whole)
        return (
            (*prompt[:1], *earlier, *prompt[1:]) if prompt[:1] and prompt[0].role == "system" else (*earlier, *prompt)
        )
    if part == "system":
        words = _system(value, column)
        if not prompt or prompt[0].role != "system":
            return (Message("system", words), *prompt)
        if prompt[0].content.strip() != words.strip():
            raise UnusableError("a system column that disagrees with the chat's system turn")
        return prompt
    text = str(_said(value, column))
    if not prompt or prompt[-1].role != "user" or any(_has(turn.content, text) for turn in prompt):
        return prompt
    _refuse(whole)
    question = prompt[-1].content
    words = f"{text}\n\n{question}" if part == "context" else "\n".join(filter(None, (question, text)))
    return (*prompt[:-1], Message("user", words))


def _refuse(whole: bool) -> None:
    if whole:
        raise UnusableError("a prompt column that disagrees with the whole chats beside it")


def _has(content: str, text: str) -> bool:
    """Whether a turn has the text in lines of its own."""
    return f"\n{text.strip()}\n" in f"\n{content.strip()}\n"


def _said(value: object, column: str) -> str | tuple[Message, ...]:
    """As `said`, and a list of texts, as of documents, one after the other."""
    found = deserialised(value) if isinstance(value, str) else value
    if isinstance(found, list) and found and all(isinstance(each, str) for each in found):
        return "\n\n".join(found)
    return said(value, f"column `{column}`")


def _system(value: object, column: str) -> str:
    found = said(value, f"column `{column}`")
    if isinstance(found, str):
        return found
    if [turn.role for turn in found] != ["system"]:
        raise SipoError(f"column `{column}` is a chat of more than a system turn; make it a text")
    return found[0].content


def _turns(value: object, column: str) -> tuple[Message, ...]:
    """Earlier turns: a chat, or LLaMA-Factory's list of [instruction, response]."""
    found = deserialised(value) if isinstance(value, str) else value
    if isinstance(found, list) and found and not any(isinstance(each, dict) for each in found):
        return tuple(_pairs(found, column))
    turns = said(value, f"column `{column}`")
    if isinstance(turns, str):
        raise SipoError(f"column `{column}` is a text; it must be a chat or a list of [instruction, response]")
    return turns


def _pairs(found: Sequence[object], column: str) -> Iterator[Message]:
    for pair in found:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SipoError(f"column `{column}` has {kind_of(pair)}; it must be a list of [instruction, response]")
        for role, words in zip(("user", "assistant"), pair, strict=True):
            if words is not None and not isinstance(words, str):
                raise SipoError(f"column `{column}` has {kind_of(words)} for a text; write [instruction, response]")
            yield Message(role, words or "")
