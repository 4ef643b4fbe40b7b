"""Folders that can be made again, up to so many bytes, shared by the processes that use them."""

import os
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from threading import Lock

from sipo.disk.appearing import appearing
from sipo.disk.locking import alone
from sipo.disk.publishing import remove
from sipo.errors import SipoError

HELD = ".held"
"""Locked by every process that uses the folders, for as long as it lives."""


class Kept:
    """Folders of at most `most` bytes in all, which stay while a process lives that has used any.

    When nobody else uses them, those not asked for longest go, until half of the room is free.
    """

    def __init__(self, place: Path, most: int) -> None:
        self.place, self.most = place, most
        self._making = Lock()
        place.mkdir(parents=True, exist_ok=True)
        self._held = (place / HELD).open("a")  # locked for as long as the process lives, or until `close`
        with suppress(BlockingIOError):
            flock(self._held, LOCK_EX | LOCK_NB)
            self._free()
        flock(self._held, LOCK_SH)

    def close(self) -> None:
        """Nothing that was given out is used any more."""
        self._held.close()

    def get(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of that name; `make` fills it where it is not there. Raises SipoError where there is no room."""
        folder = self.place / name
        if not folder.is_dir():
            with self._making, alone(folder, wait=True):
                if not folder.is_dir():  # by now another process may have made it
                    if sum(map(_bytes, self._folders())) >= self.most:
                        raise SipoError(f"{self.place}: is full ({self.most / 2**30:g} GiB); allow more, or use fewer")
                    with appearing(folder) as scratch:
                        make(scratch)
        os.utime(folder)
        return folder

    def _folders(self) -> list[Path]:
        return [each for each in self.place.iterdir() if not each.name.startswith(".")]

    def _free(self) -> None:
        for left in self.place.iterdir():
            if left.name.startswith(".") and left.name != HELD:  # by a process that was killed
                remove(left)
        sizes = {each: _bytes(each) for each in sorted(self._folders(), key=lambda each: each.stat().st_mtime)}
        total = sum(sizes.values())
        for folder, size in sizes.items():
            if total <= self.most / 2:
                break
            remove(folder)
            total -= size


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
