"""What a method is: for a preference weight, a model that answers.

Answering, comparison, export and generation know nothing else of a method.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sipo.errors import SipoError
from sipo.message import Message
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.data import Row
    from sipo.decoding import BestOf, Mixture
    from sipo.task import Task


@dataclass(frozen=True)
class Aligned:
    """A model aligned to one weight: the adapters to mount, and the mixture of points in their span that answers.

    >>> sipo.open("runs/quickstart").at({"detail": 0.3, "plain": 0.7}, method="soups").aligned.mixture.points
    ((0.3, 0.7),)
    """

    adapters: "tuple[Policy, ...]"
    mixture: "Mixture"
    instruct: str | None = None
    """System text that it is asked with."""
    best_of: "BestOf | None" = None
    """How many answers are drawn, and which of them is given; None draws the one."""

    @property
    def only_asks(self) -> bool:
        """Is it a way of asking a model: by a text of its own, or for the best of several draws?"""
        return self.instruct is not None or self.best_of is not None

    def asked(self, chat: Sequence[Message]) -> Sequence[Message]:
        """What it is asked with: the chat, with its own instruction behind the chat's system text or in its place."""
        from sipo.models.template import BETWEEN

        if self.instruct is None:
            return chat
        if chat[0].role != "system":
            return [Message("system", self.instruct), *chat]
        return [Message("system", chat[0].content + BETWEEN + self.instruct), *chat[1:]]


@dataclass(frozen=True)
class Method:
    """For a preference weight, a model.

    >>> method = sipo.soups([sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))])
    >>> method.name, len(method.at((1.0,)).adapters)
    ('soups', 1)
    """

    name: str
    at: Callable[[Weight], Aligned]
    """Raises SipoError for a weight that the method was not trained at."""
    steerable: bool = True
    """False where the weight changes nothing: the front is then one point."""
    trained: tuple[Weight, ...] | None = None
    """The weights that it has models for; None where it answers at any."""


def prompt_of(task: "Task", method: str, aligned: Aligned, row: "Row") -> tuple[int, ...]:
    """The row's prompt as the method asks it. Raises SipoError where it and an answer exceed the model's context."""
    if aligned.instruct is None:
        return task.prompt_tokens(row)
    ids, new = task.codec.encode_prompt(aligned.asked(row.prompt), limit=sys.maxsize), task.codec.max_response_tokens
    if len(ids) + new > task.backbone.context:
        raise SipoError(
            f"methods: with the instruction of `{method}` the prompt {row.text[:60]!r} has {len(ids)} tokens, with an "
            f"answer of {new} over the model's context of {task.backbone.context}; shorten the objectives' `better` or "
            f"data.max_response_tokens, or leave `{method}` out"
        )
    return tuple(ids)
