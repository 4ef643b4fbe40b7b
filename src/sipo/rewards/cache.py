"""Scores on disk, by content: the same scorer, prompt and response are never computed twice, in any run."""

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TypeVar

from sipo.disk.damage import note
from sipo.errors import SipoError
from sipo.rewards.interface import Item, Refused, Scored

SCHEMA = "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, numbers TEXT NOT NULL) WITHOUT ROWID"
WAIT = 60.0
"""Seconds that one process waits for another to finish writing."""
BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps next to a database; it would be laid over the one that takes its place."""

Answer = TypeVar("Answer")


class ScoreCache:
    """A SQLite file that any number of processes may share and any of them may crash over.

    Scores that are no longer as they were put count as absent. A damaged file is set aside, and a new one begun.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None
        self._with(lambda connection: None)

    def get(self, scorer: str, item: Item) -> Scored | None:
        statement = "SELECT numbers FROM scores WHERE key = ?"
        row = self._with(lambda connection: connection.execute(statement, (key(scorer, item),)).fetchone())
        return None if row is None else _unpacked(row[0])

    def put(self, scorer: str, scores: Sequence[tuple[Item, Scored]]) -> None:
        """Keep the numbers of these items, all or none; what another process put first stays, unless it is damaged."""
        rows = {key(scorer, item): _packed(kept) for item, kept in scores}

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for name, text in rows.items():
                    found = connection.execute("SELECT numbers FROM scores WHERE key = ?", (name,)).fetchone()
                    if found is None or _unpacked(found[0]) is None:
                        connection.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (name, text))
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        self._with(insert)

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def _with(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """What `work` comes to; once more, on a new file, where this one turns out to be damaged."""
        try:
            try:
                return work(self._opened())
            except sqlite3.OperationalError:  # locked, full, read-only: nothing that a new file would mend
                raise
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
                return work(self._opened())
        except (sqlite3.Error, OSError) as error:
            way_out = "free some space, or set SIPO_CACHE to another folder"
            raise SipoError(f"{self.path}: scores cannot be kept ({error}); {way_out}") from None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # In autocommit mode every score is on disk as soon as it is put.
            self._connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            self._connection.execute(SCHEMA)
            self._file = _inode(self.path)
        return self._connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Unless another process has done so by now."""
        self.close()
        self._connection = None
        if self.path.exists() and self._file in (None, _inode(self.path)):
            aside = next(free for n in count(1) if not (free := Path(f"{self.path}.damaged-{n}")).exists())
            for end in ("", *BESIDE):
                if Path(f"{self.path}{end}").exists():
                    os.replace(f"{self.path}{end}", f"{aside}{end}")
            note(f"{self.path}: damaged ({error}); it is now {aside}, and a new one is begun")


def _packed(kept: Scored) -> str:
    text = json.dumps({"refused": kept.reason} if isinstance(kept, Refused) else kept)
    return f"{_check(text)} {text}"


def _unpacked(text: object) -> Scored | None:
    """None for what is not as it was put. Caches of before have no check; a row of finite numbers is taken."""
    if not isinstance(text, str):
        return None
    check, space, rest = text.partition(" ")
    checked = len(check) == CHECK_DIGITS and space
    if checked and _check(rest) != check:
        return None
    try:
        kept = json.loads(rest if checked else text)
    except ValueError:
        return None
    if isinstance(kept, dict) and isinstance(kept.get("refused"), str):
        return Refused(kept["refused"])
    whole = isinstance(kept, list) and kept and all(type(n) in (int, float) and math.isfinite(n) for n in kept)
    return kept if whole else None


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


CHECK_DIGITS = 16


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:CHECK_DIGITS]


def key(scorer: str, item: Item) -> bytes:
    content = json.dumps([scorer, *(part for part in item if part is not None)], ensure_ascii=True)
    return hashlib.sha256(content.encode()).digest()
