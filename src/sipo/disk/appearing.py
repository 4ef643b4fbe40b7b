"""Folders that are whole or absent."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sipo.disk.locking import LOCK, alone, place_beside
from sipo.disk.publishing import open_as_folder, remove, sync, sync_entries, told_of
from sipo.errors import SipoError

MEMBERS = ".members"
"""Within the scratch folder: the names of what is being moved out of it, one after the other."""
SCRATCH, TRIED, STATE = ".tmp", ".tmp.try", ".checkpoint"
"""Ends of hidden names: of the folder in the making, of a try to rename it, and of what a killed work goes on from."""
OF_THE_DISK = "lost+found"
"""What a new file system begins with."""


@contextmanager
def appearing(to: Path) -> Iterator[Path]:
    """A folder that takes the name `to` when the block succeeds, and goes when it does not.

    Where `to` is there and empty, the folder's members are moved into it: it may be a mount point, which cannot be
    replaced. Raises SipoError where something is there already, or another process is making it.
    """
    given, to = to, Path(os.path.abspath(to))
    with alone(to):
        place, name = place_beside(to)
        within, scratch = to.is_dir(), place / f"{name}{SCRATCH}"
        _take_back(scratch, to)
        check_free(to)
        scratch.mkdir()
        try:
            _try_renaming(scratch)
            with told_of(given, scratch):
                yield scratch
                open_as_folder(scratch)
                sync(scratch)
                if within:
                    _move_members(scratch, to)
                else:
                    scratch.rename(to)
                    sync_entries(place)
        finally:
            _take_back(scratch, to)


def check_free(to: Path) -> None:
    """Raise SipoError where no folder can take this name, since something is there: better before a long work."""
    if to.is_symlink() and not to.exists():
        raise SipoError(f"{to}: is a symbolic link to what is not there; remove it, or make what it leads to")
    if to.exists() and (not to.is_dir() or any(not _no_content(each.name) for each in to.iterdir())):
        raise SipoError(f"{to}: exists and is not empty; name another folder, or remove it")


def _no_content(name: str) -> bool:
    """Is it there for the disk's sake, or hidden there by an earlier try?"""
    return name in (OF_THE_DISK, LOCK, SCRATCH, TRIED) or name.endswith((STATE, f"{STATE}.tmp"))


def _try_renaming(scratch: Path) -> None:
    """Better to hear it before the work than after it."""
    there = scratch.with_name(scratch.name.removesuffix(SCRATCH) + TRIED)
    remove(there)
    scratch.rename(there)
    there.rename(scratch)


def _move_members(scratch: Path, to: Path) -> None:
    names = [each.name for each in scratch.iterdir()]
    (scratch / MEMBERS).write_text(json.dumps(names), encoding="utf-8")
    sync(scratch)
    for name in names:
        (scratch / name).rename(to / name)
    sync_entries(to)
    (scratch / MEMBERS).unlink()


def _take_back(scratch: Path, to: Path) -> None:
    """Undo a moving that was broken off, and remove what was not moved."""
    with suppress(OSError, ValueError):
        for name in json.loads((scratch / MEMBERS).read_text(encoding="utf-8")):
            remove(to / name)
    remove(scratch)
