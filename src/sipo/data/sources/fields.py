"""Reading one field of a record: the types that sources need, with the column in every message."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sipo.data.chats import UnusableError, answered, asked, said
from sipo.data.context import in_context
from sipo.data.labels import EVEN, as_label, as_number
from sipo.data.sources.interface import Record
from sipo.errors import SipoError
from sipo.message import Message
from sipo.words import nearest

SCORES = frozenset(("score", "rating", "reward"))
SAID_OF_SCORES = SCORES.union(("chosen", "avg", "average", "mean", "overall", "total"))


def take(value: Mapping[str, Any], column: str) -> Any:
    if column not in value:
        near = nearest(column, value) or "COLUMN"
        raise SipoError(
            f"has no column `{column}`; it has {', '.join(value) or 'none'}; say which it is, "
            f"such as --map {column}={near}"
        )
    return value[column]


def text(value: Mapping[str, Any], column: str) -> str:
    """A string; null is an empty one, and its row will be left out."""
    found = said(take(value, column), f"column `{column}`")
    if not isinstance(found, str):
        raise UnusableError("a chat where a text is wanted")
    return found


def chat(value: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """A text, which is the user's, or a chat."""
    return asked(take(value, column), f"column `{column}`")


def prompt(value: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """What the column says, with all that stands in other columns and belongs to it."""
    return in_context(value, chat(value, column), own=(column,))


def answers(
    value: Mapping[str, Any], prompt: tuple[Message, ...], *columns: str
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The prompt, which whole chats among the answers can make fuller, and the answer in each column."""
    texts = []
    for column in columns:
        prompt, said_ = answered(take(value, column), f"column `{column}`", prompt)
        texts.append(said_)
    return prompt, tuple(texts)


def pair(
    value: Mapping[str, Any], prompt: tuple[Message, ...], first: str, second: str
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """As `answers`, of two columns."""
    prompt, (one, other) = answers(value, prompt, first, second)
    return prompt, (one, other)


def number(value: Mapping[str, Any], column: str) -> float | None:
    """A score; None where there is none."""
    return as_number(take(value, column), f"column `{column}`")


def label(value: Mapping[str, Any], column: str) -> int | None:
    """0, 1, or None for a tie or no label."""
    return as_label(take(value, column), f"column `{column}`")


def better(first: float | None, second: float | None) -> int | None:
    """The index of the larger score; None for a tie or where one is missing."""
    return None if first is None or second is None or first == second else int(second > first)


def chosen_first(record: Record, asked: Iterable[str]) -> dict[str, int | None]:
    """The label of a pair of chosen and rejected, by the objective that its file is called after.

    It is a tie where the pair's status says so, or its scores (larger is better) are equal. Raises UnusableError where
    they prefer the rejected response, and for an objective that was not asked for.
    """
    if asked and record.part not in asked:
        raise UnusableError("an objective that was not asked for")
    said = [better(rejected, chosen) for chosen, rejected in _scores(record.value)]
    if 0 in said:
        raise UnusableError("chosen and rejected whose scores say the opposite")
    tied = _is_tie(record.value) or (bool(said) and not any(said))
    return {record.part: None if tied else 0}


def _scores(value: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Of chosen and rejected, in columns such as `score_chosen` and `chosen-rating`, where both are numbers."""
    columns = {name.casefold(): name for name in value}
    for name, column in columns.items():
        words, other = re.split(r"[-_. ]+", name), columns.get(name.replace("chosen", "rejected"))
        if other and "chosen" in words and SCORES.intersection(words) and SAID_OF_SCORES.issuperset(words):
            try:
                found = [as_number(each, name) for name, each in value.items() if name in (column, other)]
            except SipoError:
                continue  # no scores, whatever they are called: nobody reads them
            if None not in found:
                yield number(value, column), number(value, other)  # type: ignore[misc]


def _is_tie(value: Mapping[str, Any]) -> bool:
    """Whether the column `status` calls the pair a tie; it is left unread where it says something else."""
    stated = dict(value.items()).get("status")
    if not (isinstance(stated, str) and stated.strip().casefold() in EVEN):
        return False
    _ = value["status"]
    return True
