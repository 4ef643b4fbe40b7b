"""Work in units that survive a crash: every finished unit is one line on disk, and is never done again."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sipo.progress import Progress

Unit = TypeVar("Unit")

FOLDER = ".journal"
"""Where a stage's folder keeps its journals; they go when the stage is complete."""


def resumable(
    folder: Path, name: str, units: Sequence[Unit], compute: Callable[[Unit], Any], progress: Progress
) -> list[Any]:
    """[compute(unit) for unit in units], skipping the units that an earlier try finished.

    Results must be plain JSON. The units and their order must be the same in every try; what a unit computes
    may depend on nothing but the unit.
    """
    path = folder / FOLDER / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = _finished(path)
    with progress.track(name, len(units)) as advance, path.open("a", encoding="utf-8") as stream:
        advance(len(results))
        for unit in units[len(results) :]:
            results.append(compute(unit))
            stream.write(json.dumps(results[-1], ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            advance(1)
    # Read back what was written, so that a resumed run and an undisturbed one go on from the same values.
    return _finished(path)


def forget(folder: Path, name: str) -> None:
    """Remove a journal whose results are kept elsewhere by now."""
    (folder / FOLDER / f"{name}.jsonl").unlink(missing_ok=True)
    if not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()


def _finished(path: Path) -> list[Any]:
    """The whole lines of a journal; a line that a crash tore is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
