"""Work in units that survive a crash: every finished unit is one line on disk, and is never done again."""

import json
import os
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sipo.disk.content import flaw_in, seal_of, short_digest
from sipo.disk.damage import note
from sipo.disk.once import parse
from sipo.disk.publishing import remove, replacing, sync
from sipo.progress import Progress

Unit = TypeVar("Unit")
Results = Generator[tuple[int, Any], None, None]
"""Units by number, each with its result."""

FOLDER = ".journal"
"""Where a stage's folder keeps its journals; they go when the stage is complete."""
PLAN = ".plan"
"""What tells whether the work may be gone on with: its file, beside them."""
SYNCED = 1.0
"""Seconds between two times that results are forced onto the disk: each alone would cost more than a quick unit."""
_ALONE: ContextVar[int | None] = ContextVar("alone", default=None)


class AloneError(Exception):
    """Ends a stage's function: the one unit that `only_unit` asked for is finished."""


@contextmanager
def only_unit(number: int) -> Iterator[None]:
    """Of the units that write folders, as trainings do, make this one alone in the block; it ends with the first list
    of such.
    """
    token = _ALONE.set(number)
    try:
        yield
    except AloneError:
        pass
    finally:
        _ALONE.reset(token)


def the_only_unit() -> int | None:
    """Which one `only_unit` asks for here, if any."""
    return _ALONE.get()


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
    alone = the_only_unit() if writes else None
    done: Collection[int] = finished
    if alone is not None:
        done = {number for number in range(count) if number != alone or number in finished}
    tracked = progress.track(journal.label or journal.name, count, done=len(done))
    with tracked as advance, path.open("ab") as stream, closing(work(done)) as results:
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
    if alone is not None:
        raise AloneError
    # Read back what was written, so that a resumed run and an undisturbed one go on from the same values.
    del finished
    return _finished(path, count, None).results


def has_written(folder: Path) -> bool:
    """Is a unit finished there that writes a folder?"""
    journals = (folder / FOLDER).glob("*.jsonl")
    return any("wrote" in entry for path in journals for _, _, entry in _entries(path))


def _line(number: int, entry: dict[str, Any]) -> bytes:
    """A check, the unit's number and its entry: damage anywhere in the line shows, and so does a line that is gone."""
    body = f"{number} {json.dumps(entry, ensure_ascii=False)}".encode()
    return short_digest(body).encode() + b" " + body + b"\n"


class _Finished(Collection[int]):
    """The numbers of the units that are done, of so many, and what each gave."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [_NOT_YET] * count
        self.done = 0

    def __len__(self) -> int:
        return self.done

    def __contains__(self, number: Any) -> bool:
        return 0 <= number < len(self.results) and self.results[number] is not _NOT_YET

    def __iter__(self) -> Iterator[int]:
        return (number for number, result in enumerate(self.results) if result is not _NOT_YET)

    def add(self, number: int, result: Any) -> None:
        self.done += self.results[number] is _NOT_YET
        self.results[number] = result


_NOT_YET = object()


def _finished(path: Path, count: int, writes: Callable[[int], Path] | None) -> _Finished:
    """The units whose lines, and whatever else they wrote, are whole.

    What is not is told of and cut out, a line that a crash tore included.
    """
    finished, lines = _Finished(count), 0
    for _, number, result in _lines(path, count, writes):
        lines += 1
        if number is not None:
            finished.add(number, result)
    if lost := lines - len(finished):
        note(f"{path}: {lost} of {lines} lines are torn or damaged; their units are done again")
        whole = {number: line for line, number, _ in _lines(path, count, writes) if number is not None}
        with replacing(path) as scratch:
            scratch.write_bytes(b"".join(whole.values()))
    return finished


def _lines(path: Path, count: int, writes: Callable[[int], Path] | None) -> Iterator[tuple[bytes, int | None, Any]]:
    """Each line, with its unit's number and result where it is whole."""
    for line, unit, entry in _entries(path) if path.exists() else ():
        if unit is None or unit >= count:
            yield line, None, None
            continue
        whole = not (writes and flaw_in(writes(unit), entry.get("wrote", {}), every_byte=True))
        yield (line, unit, entry["result"]) if whole else (line, None, None)


def _entries(path: Path) -> Iterator[tuple[bytes, int | None, dict[str, Any]]]:
    """Each line, with its unit's number and entry where it is as it was written."""
    with path.open("rb") as stream:
        for line in stream:
            check, _, body = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or short_digest(body).encode() != check:
                yield line, None, {}
                continue
            number, _, text = body.partition(b" ")
            yield line, int(number), parse(text.decode())
