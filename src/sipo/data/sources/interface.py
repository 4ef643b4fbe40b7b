"""What a source is: one file here with a recogniser of its schema and a generator of rows, and a line in the registry.

A source says nothing of files: it is given records, whether they come from a folder or from the hub.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sipo.data.prompts import Message
from sipo.data.rows import Row, Split
from sipo.errors import SipoError

T = TypeVar("T")


class Record(NamedTuple):
    place: str
    """The file and the line, for messages."""
    value: dict[str, Any]
    part: str = ""
    """What its file or folder is called; formats with one label a file take their objective from it."""
    split: Split | None = None


class Answer(NamedTuple):
    """One response with its scores."""

    prompt: tuple[Message, ...]
    response: str
    scores: dict[str, float | None]
    """Larger is better; None where there is no score."""
    split: Split | None = None


class Dropped(NamedTuple):
    """A record, or a pair, that makes no row."""

    reason: str


class UnusableError(Exception):
    """Raised while a record is read that is well-formed but makes no row; the message is the reason."""


@dataclass(frozen=True)
class Hub:
    """A part of a data set on the hub."""

    id: str
    folder: str | None = None
    config: str | None = None
    splits: tuple[Split, ...] | None = None
    """None is all that there are."""


@dataclass(frozen=True)
class Known:
    """A data set that has a name here: where it is, its licence, and what the paper does with its splits."""

    name: str
    parts: tuple[Hub, ...]
    licence: str
    test_prompts: int | None = None
    """So many prompts of its test split; None is all of them."""


@dataclass(frozen=True)
class Source:
    name: str
    columns: str
    """The columns that it is recognised by, in words."""
    recognises: Callable[[Mapping[str, Any]], bool]
    """Whether a record, the first of its file, has this schema."""
    rows: Callable[[Iterable[Record], tuple[str, ...]], Iterator[Row | Dropped]]
    """The rows of records, in their order; the names are the objectives asked for, none where the user names none."""
    known: tuple[Known, ...] = ()
    answers: Callable[[Iterable[Record], tuple[str, ...]], Iterator[Answer | Dropped]] | None = None
    """The single responses with the scores that the rows are made of; None where the records are pairs already."""


def each(records: Iterable[Record], read: Callable[[Record], Iterable[T]]) -> Iterator[T | Dropped]:
    """What `read` makes of every record; its SipoErrors get the record's place."""
    for record in records:
        try:
            yield from read(record)
        except UnusableError as why:
            yield Dropped(str(why))
        except SipoError as problem:
            raise SipoError(f"{record.place}: {problem}") from None
