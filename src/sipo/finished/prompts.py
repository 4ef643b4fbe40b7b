"""Prompts as a program gives them: a text, or a chat as a list of messages; one of them, or a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from sipo.data.chats import kind_of
from sipo.data.prompts import parse_prompt
from sipo.errors import SipoError
from sipo.message import Message

Chat = Sequence[Message] | Sequence[Mapping[str, str]]
"""Messages `Message(role, content)` or `{"role": ..., "content": ...}`, the last one the user's."""
Prompt = str | Chat
"""A text, which is the user's, or a chat."""
FORMS = 'a text, or a chat: a list of {"role": ..., "content": ...}'


def listed(prompts: "Prompt | Sequence[Prompt]") -> tuple[list[Prompt], bool]:
    """The prompts, and whether it was one alone. Raises SipoError where it is neither that nor a list."""
    if isinstance(prompts, str):
        return [prompts], True
    if not _is_list(prompts):
        raise SipoError(f"prompts is {_kind(prompts)}; give {FORMS}; or a list of these")
    given: list[Any] = list(prompts)
    alone = bool(given) and isinstance(given[0], Message | Mapping)
    return ([given], True) if alone else (given, False)


def chat_of(prompt: Prompt) -> tuple[Message, ...]:
    """The chat that the prompt is. Raises SipoError for what is no prompt."""
    if isinstance(prompt, str):
        return parse_prompt(prompt)
    if not _is_list(prompt):
        raise SipoError(f"prompt is {_kind(prompt)}; give {FORMS}")
    return parse_prompt([turn._asdict() if isinstance(turn, Message) else turn for turn in prompt])


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | Message)


def _kind(value: object) -> str:
    return "a message alone" if isinstance(value, Message) else kind_of(value)
