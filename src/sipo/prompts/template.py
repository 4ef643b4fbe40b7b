"""Prompt templates: YAML lists of chat messages whose contents are Jinja templates.

The YAML is read before anything is filled in, so no prompt or response can break out of its message. Known
variables: `chat` (the conversation's messages), `prompt` (its text), `response`, `review` and `objectives`
(each with `name` and `better`). A last message from the assistant is a lead-in: generation goes on after it. They are
rendered in a sandbox, with bounds on time and size, because templates are passed around as text is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.meta import find_undeclared_variables

from sipo.config.file import parse_yaml
from sipo.data.chats import ROLES
from sipo.errors import SipoError
from sipo.message import Message
from sipo.sandbox import Bounded

_environment = Bounded(undefined=StrictUndefined)
_compiled = cache(_environment.from_string)


@dataclass(frozen=True)
class PromptTemplate:
    name: str
    messages: tuple[Message, ...]
    lead_in: str

    @property
    def variables(self) -> set[str]:
        """What its messages say something of."""
        return set[str]().union(*(find_undeclared_variables(_environment.parse(m.content)) for m in self.messages))

    def render(self, *, chat: Sequence[Message], **values: Any) -> tuple[Message, ...]:
        """The messages with everything filled in, without the lead-in."""
        last = chat[-1].content if len(chat) == 1 else "\n".join(f"{m.role}: {m.content}" for m in chat)
        if "objectives" in values:
            values["objectives"] = [{"name": each.name, "better": each.better} for each in values["objectives"]]
        values |= {"chat": chat, "prompt": last}
        try:
            return tuple(
                Message(role, _environment.fill(_compiled(content), **values).strip())
                for role, content in self.messages
            )
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SipoError(
                f"{self.name} template: {reason}; it may use chat, prompt, response, review, objectives"
            ) from None


def load_template(path: Path | None, default: str) -> PromptTemplate:
    """The template in a file, or the one that comes with sipo. Raises SipoError where it is malformed."""
    name = str(path) if path else default
    try:
        text = path.read_text("utf-8") if path else (files("sipo.prompts") / f"{default}.yaml").read_text("utf-8")
        listed = parse_yaml(text, "the file")
        if not (
            isinstance(listed, list) and all(isinstance(m, dict) and set(m) == {"role", "content"} for m in listed)
        ):
            raise TypeError("it must be a list, and each message a mapping with role and content alone")
        messages = tuple(Message(m["role"], m["content"]) for m in listed)
        for message in messages:
            if message.role not in ROLES or not isinstance(message.content, str):
                raise TypeError(f"a message's role is one of {', '.join(ROLES)}, its content a string; not {message}")
            _compiled(message.content)
    except OSError as error:
        raise SipoError(f"prompt template {name}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception as error:  # a file may hold anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SipoError(f"prompt template {name}: not a YAML list of {{role, content}} messages ({reason})") from None
    lead_in = ""
    if messages and messages[-1].role == "assistant":
        *front, last = messages
        messages, lead_in = tuple(front), last.content.strip()
    if not messages or messages[-1].role != "user":
        raise SipoError(f"prompt template {name}: the last message before the lead-in must be the user's")
    return PromptTemplate(name, messages, lead_in)
