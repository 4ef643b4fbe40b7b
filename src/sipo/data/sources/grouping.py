"""Bringing together what belongs together, however large the source: through a temporary file, not through memory."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from tempfile import TemporaryFile
from typing import Any

from sipo.data.rows import Row
from sipo.errors import SipoError
from sipo.message import Message


def grouped(items: Iterable[tuple[str, Any]]) -> Iterator[list[Any]]:
    """The values of each key, which JSON must hold, wherever they stand: groups and members in order of appearance."""
    try:
        with closing(sqlite3.connect("")) as database:  # without a name: a private file that goes by itself
            database.execute("create table groups (number integer primary key, key text unique)")
            database.execute(
                "create table items (number integer, position integer, value text, primary key (number, position)) "
                "without rowid"  # so they stand in the order that they will be read in
            )
            for position, (key, value) in enumerate(items):
                database.execute("insert or ignore into groups (key) values (?)", (key,))
                database.execute(
                    "insert into items select number, ?, ? from groups where key = ?",
                    (position, json.dumps(value), key),
                )
            found = database.execute("select number, value from items order by number, position")
            for _, members in groupby(found, key=lambda item: item[0]):
                yield [json.loads(value) for _, value in members]
    except sqlite3.OperationalError as error:
        way_out = "free some space, or set TMPDIR to where there is some"
        raise SipoError(f"a temporary file cannot be written ({error}); {way_out}") from None


class Spool:
    """A temporary file of values, which JSON must hold, to be gone through again and again."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Spool":
        self.file = TemporaryFile("w+", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.file.write(json.dumps(value) + "\n")
            self.count += 1

    def __iter__(self) -> Iterator[Any]:
        self.file.seek(0)
        return map(json.loads, self.file)

    def __len__(self) -> int:
        return self.count


def pack(row: Row) -> list[Any]:
    """A row as a value for `grouped`."""
    return [row.prompt, row.responses, row.preferred, row.split, row.unread]


def unpack(value: list[Any]) -> Row:
    prompt, (first, second), *others = value
    return Row(tuple(Message(*message) for message in prompt), (first, second), *others)
