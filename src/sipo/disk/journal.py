"""Work in units that survive a crash: every finished unit is one line on disk, and is never done again."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sipo.disk.content import flaw_in, seal_of
from sipo.disk.damage import note
from sipo.disk.publishing import remove, replacing, sync
from sipo.progress import Progress

Unit = TypeVar("Unit")

FOLDER = ".journal"
"""Where a stage's folder keeps its journals; they go when the stage is complete."""


def resumable(
    folder: Path,
    name: str,
    units: Sequence[Unit],
    compute: Callable[[Unit], Any],
    progress: Progress,
    *,
    writes: Callable[[Unit], Path] | None = None,
) -> list[Any]:
    """[compute(unit) for unit in units], skipping the units that an earlier try finished.

    Results must be plain JSON. The units and their order must be the same in every try; what a unit computes
    may depend on nothing but the unit. `writes` names the folder that a unit writes besides: it is on the disk before
    the unit counts as finished, and one that is not as it was written is made anew.
    """
    path = folder / FOLDER / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = _finished(path, units, writes)
    with progress.track(name, len(units)) as advance, path.open("ab") as stream:
        advance(len(finished))
        for number, unit in enumerate(units):
            if number in finished:
                continue
            entry = {"result": compute(unit)}
            if writes:
                sync(writes(unit))
                entry["wrote"] = seal_of(writes(unit))
            stream.write(_line(number, entry))
            stream.flush()
            os.fsync(stream.fileno())
            advance(1)
    # Read back what was written, so that a resumed run and an undisturbed one go on from the same values.
    finished = _finished(path, units, None)
    return [finished[number] for number in range(len(units))]


def forget(folder: Path, name: str) -> None:
    """Remove a journal whose results are kept elsewhere by now."""
    remove(folder / FOLDER / f"{name}.jsonl")
    with suppress(OSError):  # it holds others
        (folder / FOLDER).rmdir()


def _line(number: int, entry: dict[str, Any]) -> bytes:
    """A check, the unit's number and its entry: damage anywhere in the line shows, and so does a line that is gone."""
    body = f"{number} {json.dumps(entry, ensure_ascii=False)}".encode()
    return hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


def _finished(path: Path, units: Sequence[Unit], writes: Callable[[Unit], Path] | None) -> dict[int, Any]:
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
        if hashlib.sha256(body).hexdigest()[:16].encode() != check:
            continue
        number, _, text = body.partition(b" ")
        unit, entry = int(number), json.loads(text)
        if unit < len(units) and not (writes and flaw_in(writes(units[unit]), entry.get("wrote", {}), every_byte=True)):
            whole[unit], results[unit] = line + b"\n", entry["result"]
    if torn or len(whole) < len(lines):
        lost = len(lines) - len(whole) + bool(torn)
        note(f"{path}: {lost} of {len(lines) + bool(torn)} lines are torn or damaged; their units are done again")
        with replacing(path) as scratch:
            scratch.write_bytes(b"".join(whole.values()))
    return results
