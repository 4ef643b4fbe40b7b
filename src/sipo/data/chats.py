"""Chats in whatever form a file has them: messages, ShareGPT's turns, either as JSON or Python text, as CSV has it, or
Anthropic's transcripts.

A text that is a serialised chat is never taken for what somebody said.
"""

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from sipo.errors import SipoError
from sipo.message import Message

ROLES = ("system", "user", "assistant")
SHAREGPT = {"human": "user", "gpt": "assistant"}
KEYS = (("role", "content"), ("from", "value"))
WRAPPERS = ("messages", "conversations", "conversation")
CALLS = ("tool_calls", "function_call")
OPENING = re.compile(r'\s*(?:array\(|")?\s*[\[({]')
TURN = r"""\\?["'](?:role|content|from|value|messages|conversations?)\\?["']\s*:"""
LIKE_A_CHAT = re.compile(rf'\s*(?:array\(|")?\s*[\[(]?\s*\{{\s*{TURN}|.*{TURN}.*{TURN}', re.DOTALL)
TRANSCRIPT = re.compile(r"\s*(?:Human|Assistant):.*\n\n(?:Human|Assistant):", re.DOTALL)
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
PRINTED = re.compile(r"\}\s*\n\s*\{")
"""Between the members of an array as numpy prints it, and so pandas writes it to CSV: without commas."""


class UnusableError(SipoError):
    """A record is well-formed but makes no row; the message is the reason. Sources leave it out and count it."""


def said(value: object, name: str) -> str | tuple[Message, ...]:
    """What a value says: a text, or the messages of a chat in any form. Null says the empty text.

    Raises SipoError for what is neither, UnusableError for a chat that cannot be read or is not all text.
    """
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    found = value
    if isinstance(value, str):
        if TRANSCRIPT.match(value):
            return transcript(value)
        found = deserialised(value)
        if not _is_chat(found):
            if found is None and OPENING.match(value) and LIKE_A_CHAT.match(value):
                raise UnusableError("a text that looks like a serialised chat and cannot be read")
            return value
    found = _unwrapped(found)
    if not isinstance(found, list | tuple):
        raise SipoError(f"{name} is {kind_of(value)}; make it a string or a list of {{role, content}}")
    return tuple(_message(each, name) for each in found)


def asked(value: object, name: str) -> tuple[Message, ...]:
    """A prompt: a text, which is the user's, or the messages of a chat. Raises as `said`, and UnusableError for a text
    that is a list of texts: so Chatbot Arena writes the user's turns.
    """
    found = said(value, name)
    if not isinstance(found, str):
        open_ended = found[-1:] and found[-1].role == "assistant" and not found[-1].content.strip()
        return found[:-1] if open_ended else found  # an empty answer is the place for one
    listed = deserialised(found)
    if isinstance(listed, list) and listed and all(isinstance(each, str | None) for each in listed):
        raise UnusableError("a prompt that is a list of texts")
    return (Message("user", found),)


def transcript(text: str) -> tuple[Message, ...]:
    r"""The turns of `\n\nHuman: ...\n\nAssistant: ...`, as Anthropic writes chats."""
    start, *turns = SPEAKER.split(text.lstrip())
    if start.strip() or not turns:
        raise UnusableError("a transcript that does not begin with Human: or Assistant:")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(Message(SPEAKERS[speaker], words.removeprefix(" ")) for speaker, words in pairs)


def answered(value: object, name: str, prompt: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """The prompt and what the assistant says to it: a text, or the last turn of a chat that may begin with the prompt,
    and then can be the fuller of the two (`agreed`).
    """
    found = said(value, name)
    if isinstance(found, str):
        return prompt, found
    if not found or found[-1].role != "assistant":
        raise UnusableError("an answer that is not one turn of the assistant")
    return (agreed(found[:-1], prompt) if len(found) > 1 else prompt), found[-1].content


def agreed(chat: Sequence[Message], stated: Sequence[Message]) -> tuple[Message, ...]:
    """The prompt that a whole chat begins with, and that stands beside it as well: the fuller of the two.

    Beside it may be all of it, all but the system turn, or the user's first or last words alone.
    """
    whole, other = _stripped(chat), _stripped(stated)
    if other == whole or (other[1:] == whole and other[0].role == "system"):
        return tuple(stated)
    users = [turn for turn in whole if turn.role == "user"]
    one_of_them = len(other) == 1 and other[0] in (*users[:1], *users[-1:])
    if one_of_them or (whole[1:] == other and whole[0].role == "system"):
        return tuple(chat)
    raise UnusableError("a prompt that disagrees with the whole chats beside it")


def deserialised(text: str) -> Any:
    """The list or mapping that a text is in JSON or as a Python literal; None where it is neither."""
    if not OPENING.match(text):
        return None
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes that are none
                found = ast.literal_eval(PRINTED.sub("}, {", text.strip()))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
    if isinstance(found, str) and found != text:
        return deserialised(found)  # serialised twice
    return list(found) if isinstance(found, tuple) else found if isinstance(found, list | dict) else None


def unread_keys(value: object) -> dict[str, list[object]]:
    """What a chat's messages, and the mapping round them, say that `said` does not read: `[].name`, `.id` and so on,
    with the values. Empty for what is no chat.
    """
    found = deserialised(value) if isinstance(value, str) else value
    unread: dict[str, list[object]] = {}
    if not _is_chat(found):
        return unread
    if isinstance(found, Mapping) and (wrapper := next((key for key in WRAPPERS if key in found), None)):
        for key in found.keys() - {wrapper, "system"}:
            unread[f".{key}"] = [found[key]]
        found = found[wrapper]
    turns: list[Any] = list(found) if isinstance(found, list | tuple) else [found]
    for turn in turns:
        read = next((keys for keys in KEYS if isinstance(turn, Mapping) and keys[0] in turn), ())
        for key, said_ in turn.items() if read else ():
            if key not in read:
                unread.setdefault(f"[].{key}", []).append(said_)
    return unread


def kind_of(value: object) -> str:
    names = {
        "NoneType": "null",
        "bool": "a boolean",
        "str": "a string",
        "list": "a list",
        "dict": "a mapping",
    }
    name = type(value).__name__
    return names.get(name, "a number" if isinstance(value, int | float) else name)


def _unwrapped(found: object) -> object:
    """The list of messages in a mapping of them, or of one message alone."""
    if not isinstance(found, Mapping):
        return found
    wrapper = next((key for key in WRAPPERS if key in found), None)
    if wrapper is None:
        return [found]
    if any(found.get(key) for key in ("tools", "functions", "images", "videos", "audios")):
        raise UnusableError("a chat with tools, images or sound")
    turns, system = found[wrapper], found.get("system")
    return [{"role": "system", "content": system}, *turns] if system and isinstance(turns, list) else turns


def _is_chat(found: object) -> bool:
    if isinstance(found, Mapping):
        return any(_is_chat(found.get(key)) for key in WRAPPERS) or _is_message(found)
    return isinstance(found, list) and bool(found) and all(map(_is_message, found))


def _is_message(found: object) -> bool:
    if not isinstance(found, Mapping):
        return False
    return any(role in found and (content in found or any(key in found for key in CALLS)) for role, content in KEYS)


def _message(turn: object, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise SipoError(f"{name} has a message that is {kind_of(turn)}; make it {{role, content}}")
    role, content = next((keys for keys in KEYS if keys[0] in turn), KEYS[0])
    if role not in turn:
        raise SipoError(f"{name} has a message without `{role}`; make it {{{role}, {content}}}")
    called = turn[role]
    called = SHAREGPT.get(called, called) if isinstance(called, str) else None
    if called not in ROLES:
        raise UnusableError("a role other than system, user and assistant")
    if any(turn.get(key) for key in CALLS):
        raise UnusableError("a turn that calls tools")
    if content not in turn:
        raise SipoError(f"{name} has a message without `{content}`; make it {{{role}, {content}}}")
    return Message(called, _content(turn[content], name))


def _content(found: object, name: str) -> str:
    """Of a turn: a text, or the texts of its parts one after the other, as chat templates join them."""
    if isinstance(found, str):
        return found
    if found is None:
        raise UnusableError("a turn without content")
    if not isinstance(found, list | tuple):
        raise SipoError(f"{name} has a message whose content is {kind_of(found)}; make it a string")
    texts = []
    for part in found:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise UnusableError("a turn with parts that are not text")
        texts.append(text)
    return "".join(texts)


def _stripped(chat: Sequence[Message]) -> list[Message]:
    return [Message(turn.role, turn.content.strip()) for turn in chat]
