"""Parts of a stage that several processes make at the same time: a policy each, with a folder and a lock of its own.

A part is the stage's work in progress with one of its units in it. Whoever makes the whole stage takes over what parts
have finished or begun, journals and folders alike, and goes on from there as after a crash. Of a run in a store a part
lies beside the run's own files, with a manifest and a lease as a run has them, so none waits for another.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sipo.disk.copies import copy_of, refreshed
from sipo.disk.damage import note
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.journal import PLAN, has_written
from sipo.disk.locking import alone, worked_on
from sipo.disk.manifest import NAME as MANIFEST
from sipo.disk.publishing import check_no_links, remove, sync
from sipo.disk.run import PARTIAL, RunFolder
from sipo.disk.writer import Writer, working
from sipo.places import path_of, shown

MARK = "@"
"""Between a stage and a part of it; no name of a stage has it."""
PARTS = "parts"
"""Below a run in a store: its parts."""
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Part:
    """One unit of a stage of a run, as one process makes it."""

    run: RunFolder
    stage: str
    unit: str

    @property
    def name(self) -> str:
        """Beside those of stages."""
        return f"{self.stage}{MARK}{self.unit}"

    @cached_property
    def folder(self) -> RunFolder:
        """That it is work in progress of: the run's, or of a run in a store one of its own."""
        return RunFolder(path_of(f"{shown(self.run.path)}/{PARTS}/{self.name}")) if self.run.copy else self.run

    @property
    def place(self) -> Path:
        return self.folder.path / PARTIAL / self.name

    @contextmanager
    def held(self, every: float = 60.0) -> Iterator[Writer | None]:
        """Hold it against other processes; in a store, publish it every so many seconds. Raises SipoError where another
        one works on it.
        """
        work = f"`{self.unit}` of {self.stage}"
        if self.folder.copy:
            with working(self.folder.path, every, work=work) as writer:
                yield writer
        else:
            with alone(self._lock, work=work):
                yield None

    def state(self, plan: str | None = None) -> str:
        """`working`, where a process makes it; `done`; `begun`, and nobody is at it; `stale`, begun with other settings
        than those of the plan.
        """
        refreshed(self.folder.path)
        copy = copy_of(self.folder.path)
        if copy.manifest is not None and copy.manifest.held if copy else worked_on(self._lock):
            return "working"
        if plan is not None and self.place.exists() and not self.is_of(plan):
            return "stale"
        return "done" if has_written(self.place) else "begun"

    def is_of(self, plan: str) -> bool:
        marker = self.place / PLAN
        return marker.is_file() and marker.read_bytes() == plan.encode()

    @property
    def _lock(self) -> Path:
        return self.place.with_name(f"{self.place.name}.part")


def parts_in(run: RunFolder) -> list[Part]:
    """All that there are, of all stages, in the order of their names; what another process just takes over may be among
    them.
    """
    if run.copy:
        ends = (PARTS + "/", "/" + MANIFEST)
        there = [name for name in run.copy.objects.names(PARTS) if name.endswith(ends[1])]
        names = [name.removeprefix(ends[0]).removesuffix(ends[1]) for name in there]
    else:
        top = run.path / PARTIAL
        names = [each.relative_to(top).as_posix() for each in top.rglob(f"*{MARK}*") if each.is_dir()]
    parted = (name.partition(MARK) for name in sorted(names))
    return [Part(run, stage, unit) for stage, mark, unit in parted if mark and "/" not in unit]


def gather(run: RunFolder, stage: str, into: Path, plan: str, publish: Callable[[], None] = lambda: None) -> list[str]:
    """Move what parts of the stage have into its work in progress; the units of these parts. Those of another plan go.

    Of a run in a store `publish` is called before a part goes. Killed, the same call goes on: a unit's line in the
    journal is there before its folder, and counts with it alone. Raises SipoError where a part is being made.
    """
    found = []
    for part in [each for each in parts_in(run) if each.stage == stage]:
        with part.held() as writer:
            check_no_links(part.place)
            if part.is_of(plan):
                _take(part.place, into, run.path / METRICS, stays=writer is not None)
                found.append(part.unit)
            elif part.place.exists():
                note(f"{part.place}: was begun with other settings; it is not used")
            publish()
            writer.remove() if writer else remove(part.place)
    return found


def _take(part: Path, into: Path, metrics: Path, *, stays: bool) -> None:
    """Once or, where it was broken off, again. What `stays` in the part until all is safe is copied."""
    for journal in sorted((part / JOURNAL).glob("*.jsonl")):
        to = into / JOURNAL / journal.name
        to.parent.mkdir(parents=True, exist_ok=True)
        ours = to.read_bytes() if to.exists() else b""
        if ours and not ours.endswith(b"\n"):
            ours += b"\n"  # a torn line is one line
        known = {_unit(line) for line in ours.splitlines()}
        new = [line for line in journal.read_bytes().splitlines(keepends=True) if _unit(line) not in known]
        to.write_bytes(ours + b"".join(new))
        sync(to)
        if not stays:
            remove(journal)
    for file in [file for file in part.rglob("*") if file.is_file() and file.name != PLAN]:
        if file == part / METRICS:
            said = {*metrics.read_bytes().splitlines()} if metrics.exists() else set()
            with metrics.open("ab") as stream:
                stream.writelines(line for line in file.read_bytes().splitlines(keepends=True) if line[:-1] not in said)
        elif file.parent != part / JOURNAL or file.suffix != ".jsonl":
            to = into / file.relative_to(part)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to) if stays else file.replace(to)
    sync(into)


def _unit(line: bytes) -> bytes:
    """The number in a journal's line."""
    return line.split(b" ", 2)[1] if line.count(b" ") > 1 else line
