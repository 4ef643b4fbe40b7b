"""Scores on disk, by content: the same scorer, prompt and response are never computed twice, in any run."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sipo.errors import SipoError
from sipo.rewards.interface import Item, Refused, Scored

SCHEMA = "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, numbers TEXT NOT NULL) WITHOUT ROWID"
WAIT = 60.0
"""Seconds that one process waits for another to finish writing."""


class ScoreCache:
    """A SQLite file that any number of processes may share and any of them may crash over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # In autocommit mode every score is on disk as soon as it is put.
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
            self._connection.execute(SCHEMA)

    def get(self, scorer: str, item: Item) -> Scored | None:
        with self._told():
            found = self._connection.execute("SELECT numbers FROM scores WHERE key = ?", (key(scorer, item),))
            row = found.fetchone()
        kept = None if row is None else json.loads(row[0])
        return Refused(kept["refused"]) if isinstance(kept, dict) else kept

    def put(self, scorer: str, scores: Sequence[tuple[Item, Scored]]) -> None:
        """Keep the numbers of these items, all or none; what another process put first stays."""
        rows = [
            (key(scorer, item), json.dumps({"refused": kept.reason} if isinstance(kept, Refused) else kept))
            for item, kept in scores
        ]
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", rows)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            way_out = "free some space, or set SIPO_CACHE to another folder; a damaged file may be removed"
            raise SipoError(f"{self.path}: scores cannot be kept ({error}); {way_out}") from None


def key(scorer: str, item: Item) -> bytes:
    content = json.dumps([scorer, item.prompt, item.response], ensure_ascii=True)
    return hashlib.sha256(content.encode()).digest()
