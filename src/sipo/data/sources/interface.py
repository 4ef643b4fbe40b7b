"""What a source is: one file here with a recogniser of its schema and a generator of rows, declared as `SOURCE`.

Another package brings its own as an entry point of the group `sipo.sources`.

A source says nothing of files: it is given records, whether they come from a folder or from the hub.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sipo.data.chats import UnusableError
from sipo.data.columns import Columns
from sipo.data.labels import Split, as_split
from sipo.data.rows import Row
from sipo.errors import SipoError
from sipo.message import Message

SPLIT_COLUMNS = ("split", "data_split", "dataset_split", "partition")


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
    unread: Mapping[str, int] = {}
    """As of a row."""


class Dropped(NamedTuple):
    """A record, or a pair, that makes no row."""

    reason: str


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
    general: int = 0
    """0 knows a data set by columns of its own; what would take the records of others is asked after those, the larger
    the later."""
    own: tuple[str, ...] = ()
    """Columns of labels in which a number does not mean what it means elsewhere: this source alone can read them."""


def each(records: Iterable[Record], read: Callable[[Record], Iterable[Row | Answer | Dropped]]) -> Iterator[Any]:
    """What `read` makes of every record, with what it left unread; its SipoErrors get the record's place."""
    for record in records:
        columns = Columns(record.value)
        try:
            split = stated_split(columns) or record.split
            for made in read(record._replace(value=columns, split=split)):
                if isinstance(made, Row):
                    made = replace(made, unread=columns.unread)
                elif isinstance(made, Answer):
                    made = made._replace(unread=columns.unread)
                yield made
        except UnusableError as why:
            yield Dropped(str(why))
        except SipoError as problem:
            raise SipoError(f"{record.place}: {problem}") from None


def stated_split(columns: Columns) -> Split | None:
    """The split that a column states."""
    for name in SPLIT_COLUMNS:
        if name in columns and (split := as_split(columns[name], f"column `{name}`")):
            return split
    return None
