"""Work in units that survive a crash: every finished unit is one line on disk, and is never done again."""

import json
import os
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sipo.disk.content import flaw_in, seal_of, short_digest
from sipo.disk.damage import note
from sipo.disk.publishing import remove, replacing, sync
from sipo.progress import Progress

Unit = TypeVar("Unit")
Results = Generator[tuple[int, Any], None, None]
"""Units by number, each with its result."""

FOLDER = ".journal"
"""Where a stage's folder keeps its journals; they go when the stage is complete."""
SYNCED = 1.0
"""Seconds between two times that results are forced onto the disk: each alone would cost more than a quick unit."""


@dataclass(frozen=True)
class Journal:
    """One list of units among those of a folder, and who is told how far it is."""

    folder: Path
    name: str
    progress: Progress
    label: str = ""
    """What people are told is under way, where the name tells them nothing."""

    @property
    def path(self) -> Path:
        return self.folder / FOLDER / f"{self.name}.jsonl"

    def forget(self) -> None:
        """Remove it: its results are kept elsewhere by now."""
        remove(self.path)
        with suppress(OSError):  # the folder holds others
            self.path.parent.rmdir()


def resumable(
    journal: Journal,
    units: Sequence[Unit],
    compute: Callable[[Unit], Any],
    *,
    writes: Callable[[Unit], Path] | None = None,
) -> list[Any]:
    """[compute(unit) for unit in units], skipping the units that an earlier try finished.

    What a unit computes may depend on nothing but the unit. `writes` names the folder that a unit writes besides: it is
    on the disk before the unit counts as finished, and one that is not as it was written is made anew.
    """

    def work(done: Collection[int]) -> Results:
        return ((number, compute(unit)) for number, unit in enumerate(units) if number not in done)

    place = None if writes is None else lambda number: writes(units[number])
    return in_any_order(journal, len(units), work, writes=place)


def in_any_order(
    journal: Journal,
    count: int,
    work: Callable[[Collection[int]], Results],
    *,
    writes: Callable[[int], Path] | None = None,
) -> list[Any]:
    """The results of units 0 .. count - 1, in order. `work` is told which are done, and yields (number, result) of all
    others as they come.

    Results must be plain JSON, and the units and their numbers the same in every try. A result survives the end of
    this process at once, and that of the machine after `SYNCED` seconds; with `writes` (`resumable`) that at once too.
    """
    path, progress = journal.path, journal.progress
    path.parent.mkdir(parents=True, exist_ok=True)
    finished, synced = _finished(path, count, writes), time.monotonic()
    tracked = progress.track(journal.label or journal.name, count, done=len(finished))
    with tracked as advance, path.open("ab") as stream, closing(work(finished.keys())) as results:
        for number, result in results:
            entry = {"result": result}
            if writes:
                sync(writes(number))
                entry["wrote"] = seal_of(writes(number))
            stream.write(_line(number, entry))
            stream.flush()
            if writes or time.monotonic() - synced > SYNCED:
                os.fsync(stream.fileno())
                synced = time.monotonic()
            advance(1)
        os.fsync(stream.fileno())
    # Read back what was written, so that a resumed run and an undisturbed one go on from the same values.
    finished = _finished(path, count, None)
    return [finished[number] for number in range(count)]


def _line(number: int, entry: dict[str, Any]) -> bytes:
    """A check, the unit's number and its entry: damage anywhere in the line shows, and so does a line that is gone."""
    body = f"{number} {json.dumps(entry, ensure_ascii=False)}".encode()
    return short_digest(body).encode() + b" " + body + b"\n"


def _finished(path: Path, count: int, writes: Callable[[int], Path] | None) -> dict[int, Any]:
    """The results of the units whose lines, and whatever else they wrote, are whole, by number.

    What is not is told of and cut out, a line that a crash tore included.
    """
    if not path.exists():
        return {}
    *lines, torn = path.read_bytes().split(b"\n")
    whole: dict[int, bytes] = {}
    results: dict[int, Any] = {}
    for line in lines:
        check, _, body = line.partition(b" ")
        if short_digest(body).encode() != check:
            continue
        number, _, text = body.partition(b" ")
        unit, entry = int(number), json.loads(text)
        if unit < count and not (writes and flaw_in(writes(unit), entry.get("wrote", {}), every_byte=True)):
            whole[unit], results[unit] = line + b"\n", entry["result"]
    if torn or len(whole) < len(lines):
        lost = len(lines) - len(whole) + bool(torn)
        note(f"{path}: {lost} of {len(lines) + bool(torn)} lines are torn or damaged; their units are done again")
        with replacing(path) as scratch:
            scratch.write_bytes(b"".join(whole.values()))
    return results
