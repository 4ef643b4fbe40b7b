"""The chat template of a tokenizer: one place where chats become text, for policies and for reward models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from transformers import PreTrainedTokenizerBase

from sipo.data import Message
from sipo.errors import SipoError
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
        where it insists that turns alternate, messages of one role in a row are made one. Raises SipoError, with
        whatever else the template raises as its reason.
        """
        failure: Exception | None = None
        for form in _forms(chat):
            try:
                text = self._fill(form, opening)
                if not self._drops(form, text, opening):
                    return text
                failure = failure or SipoError("it leaves the system text out")
            except Exception as error:  # a template may raise anything
                failure = failure or error
        raise SipoError(f"does not fit the chat template ({_reason(failure)})")

    @property
    def findings(self) -> list[str]:
        """What a user should know of the template, one line each."""
        user = Message("user", "a question")
        found = []
        try:
            self._fill([Message("system", "a rule"), user], opening=True)
        except Exception:
            found.append("has no system turn: the system text is put before the user's")
        else:
            if self._drops(chat := [Message("system", "a rule"), user], self._fill(chat, True), True):
                found.append("leaves the system text out: it is put before the user's")
        try:
            if self._fill([user], opening=True) == self._fill([user], opening=False):
                found.append("writes no header for the assistant's turn: the prompt ends with the user's")
        except Exception as error:
            found.append(f"does not fit a plain question ({_reason(error)})")
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

    def _fill(self, chat: Sequence[Message], opening: bool) -> str:
        messages = [message._asdict() for message in chat]
        return _environment.fill(self._template, **self._values, messages=messages, add_generation_prompt=opening)

    def _drops(self, chat: Sequence[Message], text: str, opening: bool) -> bool:
        """Does the text lack the system's, and read as if there were none?"""
        systems = [stripped for role, content in chat if role == "system" and (stripped := content.strip())]
        if not systems or any(each in text for each in systems):
            return False
        try:
            return self._fill([message for message in chat if message.role != "system"], opening) == text
        except Exception:
            return False


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


def _reason(error: Exception | None) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
