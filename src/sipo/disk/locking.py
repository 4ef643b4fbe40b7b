"""One process at a time: whoever writes somewhere holds a lock there, which goes with the process, however it ends."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sipo.disk.damage import note
from sipo.errors import SipoError

LOCK = ".lock"


def place_beside(to: Path) -> tuple[Path, str]:
    """The folder for what `to` needs while it is made, and what stands before the dot of such hidden names.

    Within `to` where it is a folder already, which may be a mount point that nothing can replace; else next to it.
    """
    to = to.resolve()  # by whatever links it is reached
    return (to, "") if to.is_dir() else (to.parent, f".{to.name}")


@contextmanager
def alone(to: Path, *, wait: bool = False, work: str = "") -> Iterator[None]:
    """Hold `to`, a file or folder that is there or is to be, against other processes; parents are made as needed.

    Where another one holds it: wait, or raise SipoError, one line that says who. May be nested in one process. The
    lock's file is hidden and goes at the end, and so do parents in which nothing came to stand.
    """
    place, name = place_beside(to)
    made = [parent for parent in (place, *place.parents) if not parent.exists()]
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{name}{LOCK}"
    lock = FileLock(path, is_singleton=True)
    again = lock.is_locked
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = f"{_holder(path)} is working on {work or 'it'}"
            if not wait:
                raise SipoError(f"{to}: {who}; wait for it, then give the same command again") from None
            note(f"{to}: {who}; waiting for it")
            lock.acquire()
        try:
            if not again:
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
            yield
        finally:
            if not again:
                path.unlink(missing_ok=True)  # first, so that whoever has it open already sees that it is no more
            lock.release()
    finally:
        for parent in made:
            with suppress(OSError):  # it is not empty, as it should be
                parent.rmdir()


def worked_on(to: Path) -> bool:
    """Does another process hold it? Nothing is locked to find out, so nobody is kept from beginning.

    On another machine its word is taken for it: that it ended by force is not to be seen from here.
    """
    place, name = place_beside(to)
    try:
        said = re.fullmatch(r"process (\d+) on (.*)", (place / f"{name}{LOCK}").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
    if said is None or said[2] != platform.node():
        return said is not None
    try:
        os.kill(int(said[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if text := path.read_text(encoding="utf-8").strip():
            return f"another process ({text})"
    return "another process"
