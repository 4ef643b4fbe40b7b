"""Prompts: a string, or a chat that ends with the user's turn."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.data._files import read_records
from sipo.data.chats import UnusableError, asked, kind_of
from sipo.data.context import in_context
from sipo.data.labels import Split, as_split
from sipo.errors import SipoError
from sipo.message import Message

EMPTY = "prompt is empty"


def read_prompts(path: Path) -> list[tuple[Message, ...]]:
    """The prompts of a file of records with the column `prompt`, in its order, none twice.

    Raises SipoError, one line with the file, the place and the way out, for the first thing that is wrong.
    """
    return list(dict.fromkeys(prompt for _, prompt, _ in _read(path)))


def read_split_prompts(path: Path) -> dict[tuple[Message, ...], Split | None]:
    """The same with the split that each one's column `split` names, None where it names none."""
    splits: dict[tuple[Message, ...], Split | None] = {}
    for place, prompt, record in _read(path):
        try:
            split = as_split(record.get("split"), "split")
        except SipoError as problem:
            raise SipoError(f"{path} {place}: {problem}") from None
        if splits.setdefault(prompt, split) != split:
            raise SipoError(f"{path} {place}: has a prompt that is in another split before; leave one of them out")
    return splits


def _read(path: Path) -> Iterator[tuple[str, tuple[Message, ...], dict[str, Any]]]:
    """Place, prompt and record."""
    empty = True
    for place, record in read_records(Path(path)):
        if not isinstance(record, dict) or "prompt" not in record:
            raise SipoError(f'{path} {place}: has no column `prompt`; write one {{"prompt": ...}} a line')
        try:
            prompt = parse_prompt(record["prompt"], record)
        except UnusableError as why:
            raise SipoError(f"{path} {place}: {why}; mend it or leave the row out") from None
        except SipoError as problem:
            raise SipoError(f"{path} {place}: {problem}") from None
        empty = False
        yield place, prompt, record
    if empty:
        raise SipoError(f"{path}: no prompts; each needs the column prompt")


def parse_prompt(value: object, beside: Mapping[str, Any] | None = None) -> tuple[Message, ...]:
    """A prompt as a file has it: a text, or a chat in any form (`sipo.data.chats`) that ends with the user's turn.

    `beside` is the record that it stands in, whose other columns may belong to it (`sipo.data.context`). Raises
    UnusableError for what the way out depends on where it stands: mended, or left out; SipoError for the rest.
    """
    prompt = asked(value, "prompt")
    if not prompt:
        raise UnusableError(EMPTY)
    prompt = in_context(beside or {}, prompt, own=("prompt",))
    if prompt[-1].role != "user":
        raise SipoError(f"prompt ends with the role {prompt[-1].role}; its last message must be the user's")
    if not prompt[-1].content.strip():
        raise UnusableError(EMPTY)
    for turn in prompt:
        parse_text(turn.content, "prompt", may_be_empty=True)
    return prompt


def text_of(prompt: Sequence[Message]) -> str:
    """A prompt for people to read: the user's text, or one `role: content` a line of a longer chat."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def parse_text(value: object, name: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise SipoError(f"{name} is {kind_of(value)}; make it a string")
    if not may_be_empty and not value.strip():
        raise SipoError(f"{name} is empty; fill it in or leave the row out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SipoError(f"{name} has half a character (a lone surrogate); mend the text's encoding") from None
    return value
