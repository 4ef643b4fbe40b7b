"""The chat template of a tokenizer: one place where chats become text, for policies and for reward models."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from itertools import product
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from transformers import PreTrainedTokenizerBase

from sipo.errors import SipoError, first_line
from sipo.message import Message
from sipo.sandbox import Bounded

BETWEEN = "\n\n"
"""What stands between two messages that are made one."""


class _Generation(Extension):
    """`{% generation %}`, with which some templates mark what an assistant wrote."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(list(parser.parse_statements(("name:endgeneration",), drop_needle=True)), lineno=line)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


_environment = Bounded(extensions=[_Generation, loopcontrols])
_environment.globals["raise_exception"] = _raise_exception
_compiled = cache(_environment.from_string)


@dataclass(frozen=True)
class ChatTemplate:
    """Renders as `apply_chat_template` does, but with bounds on time and size, and at a moment that stays."""

    tokenizer: PreTrainedTokenizerBase
    moment: datetime
    """What `strftime_now` tells."""

    def render(self, chat: Sequence[Message], *, opening: bool) -> str:
        """The chat as text; `opening` puts the header of the assistant's next turn at its end.

        Where the template refuses a system turn, or drops its text, the text is put before that of the next message;
        where it insists that turns alternate, messages of one role in a row are made one; where it reads contents as
        lists of parts, as templates for pictures do, they are such. Raises SipoError where it leaves a user's text out,
        and for whatever else it raises, with that as the reason.
        """
        failure: Exception | None = None
        for parts, form in product((False, True), _forms(chat)):
            try:
                text = self._fill(form, opening, parts)
                dropped = self._dropped(form, text, opening, parts)
                if dropped is None:
                    return text
                failure = failure or SipoError(f"it leaves the {dropped}'s text out")
            except Exception as error:  # a template may raise anything
                failure = failure or error
        raise SipoError(f"does not fit the chat template ({first_line(failure)})")

    @property
    def findings(self) -> list[str]:
        """What a user should know of the template, one line each."""
        user = Message("user", "a question")
        found = []
        chat = [Message("system", "a rule"), user]
        try:
            dropped = self._dropped(chat, self._fill(chat, True), True)
        except Exception:
            found.append("has no system turn: the system text is put before the user's")
        else:
            if dropped == "system":
                found.append("leaves the system text out: it is put before the user's")
        try:
            if self.render([user], opening=True) == self.render([user], opening=False):
                found.append("writes no header for the assistant's turn: the prompt ends with the user's")
        except SipoError as error:
            found.append(str(error).replace("the chat template", "a plain question"))
        return found

    @property
    def dated(self) -> bool:
        """Does it look at the clock?"""
        return "strftime_now" in self._source

    @property
    def _source(self) -> str:
        return str(self.tokenizer.get_chat_template())

    @cached_property
    def _template(self) -> Template:
        return _compiled(self._source)

    @cached_property
    def _values(self) -> dict[str, Any]:
        clock = self.moment.strftime
        return {**self.tokenizer.special_tokens_map, "strftime_now": clock, "tools": None, "documents": None}

    def _fill(self, chat: Sequence[Message], opening: bool, parts: bool = False) -> str:
        """`parts` makes each content a list of one text."""
        messages = [message._asdict() for message in chat]
        if parts:
            messages = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
        return _environment.fill(self._template, **self._values, messages=messages, add_generation_prompt=opening)

    def _dropped(self, chat: Sequence[Message], text: str, opening: bool, parts: bool = False) -> str | None:
        """The role, system or user, whose words the text lacks, and reads as if there were none or others."""
        systems = [stripped for role, content in chat if role == "system" and (stripped := content.strip())]
        others = [[message for message in chat if message.role != "system"]] if systems else []
        if any(each in text for each in systems):
            others = []
        for number, (role, content) in enumerate(chat):
            if role == "user" and content.strip() not in text:
                others.append([*chat[:number], Message(role, "another text"), *chat[number + 1 :]])
        for other in others:
            with suppress(Exception):  # that it does not fit tells nothing of the chat that does
                if self._fill(other, opening, parts) == text:
                    return "user" if len(other) == len(chat) else "system"
        return None


def _forms(chat: Sequence[Message]) -> Iterator[list[Message]]:
    """The chat as it is, and as a template may want it."""
    tried: list[list[Message]] = []
    for form in (list(chat), _folded(chat), _merged(chat), _merged(_folded(chat))):
        if form not in tried:
            tried.append(form)
            yield form


def _folded(chat: Sequence[Message]) -> list[Message]:
    """Without system messages: their text goes before that of the next message."""
    folded, waiting = list[Message](), list[str]()
    for message in chat:
        if message.role == "system":
            waiting.append(message.content)
        else:
            folded.append(Message(message.role, BETWEEN.join([*filter(None, waiting), message.content])))
            waiting = []
    return folded


def _merged(chat: Sequence[Message]) -> list[Message]:
    """With one message where several of a role follow each other."""
    merged = list[Message]()
    for message in chat:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, merged[-1].content + BETWEEN + message.content)
        else:
            merged.append(message)
    return merged
