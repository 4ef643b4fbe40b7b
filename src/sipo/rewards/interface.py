"""What every reward is: something that gives a prompt and a response one number, or several at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from sipo.message import Message

Chat = tuple[Message, ...]


class Item(NamedTuple):
    """What is scored: a chat that ends with the user's turn, and a response to it."""

    prompt: Chat
    response: str
    against: str | None = None
    """Another response to the same prompt, for judges that compare."""


class Refused(NamedTuple):
    """In place of numbers, where a provider would not have an item judged."""

    reason: str


Scored = list[float] | Refused


class Scorer(Protocol):
    """Scores items by one or several measures at once; of each, larger is more of what it measures."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def identity(self) -> str | None:
        """What its numbers are filed under: it changes whenever they could. None is too cheap to be worth it."""
        ...

    def check(self) -> None:
        """Raise SipoError for what would stop scoring and can be seen without any."""
        ...

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, Scored]]:
        """(index of an item, its number by each measure, or a refusal), as they are ready, in any order.

        What it loads lives no longer than the iteration. Raises SipoError, which may name no reward.
        """
        ...


def named(item: Item) -> str:
    """The item, for messages: how its texts begin."""
    return f"the response {_start(item.response)} to {_start(item.prompt[-1].content)}"


def _start(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
