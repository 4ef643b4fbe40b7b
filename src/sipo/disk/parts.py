"""Parts of a stage that several processes make at the same time: a policy each, with a folder and a lock of its own.

A part is the stage's work in progress with one of its units in it. Whoever makes the whole stage takes over what parts
have finished or begun, journals and folders alike, and goes on from there as after a crash.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sipo.disk.damage import note
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.locking import alone
from sipo.disk.publishing import check_no_links, remove, sync
from sipo.disk.run import PARTIAL, PLAN, RunFolder

MARK = "@"
"""Between a stage and a part of it; no name of a stage has it."""
METRICS = "metrics.jsonl"


def part_of(stage: str, unit: str) -> str:
    """Its name beside those of stages."""
    return f"{stage}{MARK}{unit}"


@contextmanager
def held(folder: RunFolder, stage: str, unit: str) -> Iterator[Path]:
    """Hold a part against other processes; its folder. Raises SipoError where another one works on it."""
    place = folder.path / PARTIAL / part_of(stage, unit)
    with alone(place.with_name(f"{place.name}.part"), work=f"`{unit}` of {stage}"):
        yield place


def gather(folder: RunFolder, stage: str, into: Path, plan: str) -> list[str]:
    """Move what parts of the stage have into its work in progress; the units of these parts. Those of another plan go.

    Killed, the same call goes on: a unit's line in the journal is there before its folder, and counts with it alone.
    Raises SipoError where a part is being made.
    """
    place, found = folder.path / PARTIAL / stage, []
    for part in sorted(place.parent.glob(f"{place.name}{MARK}*")):
        unit = part.name.partition(MARK)[2]
        with held(folder, stage, unit):
            check_no_links(part)
            if (part / PLAN).is_file() and (part / PLAN).read_bytes() == plan.encode():
                _take(part, into, folder.path / METRICS)
                found.append(unit)
            else:
                note(f"{part}: was begun with other settings; it is not used")
            remove(part)
    return found


def _take(part: Path, into: Path, metrics: Path) -> None:
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
        remove(journal)
    for file in [file for file in part.rglob("*") if file.is_file() and file.name != PLAN]:
        if file == part / METRICS:
            with metrics.open("ab") as stream:
                stream.write(file.read_bytes())
            remove(file)
            continue
        to = into / file.relative_to(part)
        to.parent.mkdir(parents=True, exist_ok=True)
        file.replace(to)
    sync(into)


def _unit(line: bytes) -> bytes:
    """The number in a journal's line."""
    return line.split(b" ", 2)[1] if line.count(b" ") > 1 else line
