"""Prompts as a program gives them: a text, or a chat as a list of messages; one of them, or a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from sipo.data.chats import UnusableError, kind_of
from sipo.data.prompts import parse_prompt
from sipo.errors import SipoError
from sipo.message import Message

Chat = Sequence[Message] | Sequence[Mapping[str, str]]
"""Messages `Message(role, content)` or `{"role": ..., "content": ...}`, the last one the user's."""
Prompt = str | Chat
"""A text, which is the user's, or a chat."""
FORMS = 'a text, or a chat: a list of {"role": ..., "content": ...}'


def as_prompts(prompts: "Prompt | Sequence[Prompt]") -> tuple[list[Prompt], bool]:
    """The prompts, and whether it was one alone. Raises SipoError where it is neither that nor a list."""
    if isinstance(prompts, str):
        return [prompts], True
    if not _is_list(prompts):
        raise SipoError(f"prompts is {_kind(prompts)}; give {FORMS}; or a list of these")
    given: list[Any] = list(prompts)
    alone = bool(given) and isinstance(given[0], Message | Mapping)
    return ([given], True) if alone else (given, False)


def chats_of(prompts: Sequence[Prompt]) -> list[tuple[Message, ...]]:
    """The chats that the prompts are. Raises SipoError as `chat_of`; of several it says which."""
    found = []
    for number, prompt in enumerate(prompts, 1):
        try:
            found.append(chat_of(prompt))
        except SipoError as problem:
            place = f"prompt {number} of {len(prompts)}: " if len(prompts) > 1 else ""
            raise SipoError(f"{place}{problem}") from None
    return found


def chat_of(prompt: Prompt) -> tuple[Message, ...]:
    """The chat that the prompt is. Raises SipoError for what is no prompt."""
    if not isinstance(prompt, str) and not _is_list(prompt):
        raise SipoError(f"prompt is {_kind(prompt)}; give {FORMS}")
    turns = prompt if isinstance(prompt, str) else [_mapping(turn) for turn in prompt]
    try:
        return parse_prompt(turns)
    except UnusableError as why:
        raise SipoError(f"{why}; give {FORMS}") from None


def _mapping(turn: Message | Mapping[str, str]) -> Mapping[str, str]:
    return turn._asdict() if isinstance(turn, Message) else turn


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | Message)


def _kind(value: object) -> str:
    return "a message alone" if isinstance(value, Message) else kind_of(value)
