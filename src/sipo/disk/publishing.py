"""What is published stays: a file or folder takes its name when all of it is on the disk, and goes without reaching
through a symbolic link into what is not ours.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from sipo.errors import SipoError
from sipo.places import in_a_store, named

moving = RLock()
"""Held while a folder takes another's place, and by whoever must see both as they were or as they are to be."""


def sync(path: Path) -> None:
    """Put a file, or a folder and all that is in it, on the disk: a power cut after this takes nothing away."""
    if path.is_symlink():
        return
    for each in path.iterdir() if path.is_dir() else ():
        sync(each)
    sync_entries(path)


def sync_entries(path: Path) -> None:
    """Put a file's content, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def told_of(path: Path, scratch: Path) -> Iterator[None]:
    """Within the block, errors of the disk that name the scratch, or what is in it, name `path`, which people know."""
    try:
        yield
    except OSError as error:
        for which in ("filename", "filename2"):
            name = getattr(error, which)
            if isinstance(name, str | os.PathLike) and Path(name).is_relative_to(scratch):
                setattr(error, which, str(path))
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside `path`, which takes its name when the block succeeds, and goes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with told_of(path, scratch):
            yield scratch
            sync_entries(scratch)
            os.replace(scratch, path)
            sync_entries(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def open_as_folder(folder: Path) -> None:
    """Open every file to those whom its folder is open to: some libraries write what only its owner can read."""
    for each in folder.iterdir():
        if each.is_symlink():
            continue
        if each.is_dir():
            open_as_folder(each)
            continue
        mode = each.stat().st_mode
        if mode != (wanted := mode | folder.stat().st_mode & 0o666):
            each.chmod(wanted)


def move(path: Path, to: Path) -> None:
    """Rename a file or folder. A symbolic link goes on leading where it led, from its new place too.

    Where it cannot be renamed, since `to` is on another disk or `path` in the image of a container, it is copied, and
    goes when the copy is whole.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    with moving:
        if path.is_symlink():
            to.symlink_to(path.resolve())
            path.unlink()
        else:
            try:
                path.rename(to)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(path, to)
                remove(path)
    sync_entries(to.parent)
    sync_entries(path.parent)


def _copy(path: Path, to: Path) -> None:
    scratch = to.with_name(f".{to.name}.tmp")
    remove(scratch)
    try:
        if path.is_dir():
            shutil.copytree(path, scratch, symlinks=True)
        else:
            shutil.copy2(path, scratch)
        sync(scratch)
        scratch.rename(to)
        sync_entries(to.parent)
    finally:
        remove(scratch)


def remove(path: Path) -> None:
    """Remove what is there, if anything is. Of a symbolic link it is the link that goes, never what it leads to."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
    elif sys.version_info >= (3, 12):  # neither follows links
        shutil.rmtree(path, onexc=_refused)
    else:
        shutil.rmtree(path, onerror=lambda function, place, told: _refused(function, place, told[1]))


def _refused(_: Any, place: str, error: BaseException) -> None:
    """The error has the last name alone."""
    if isinstance(error, OSError):
        error.filename = place
    raise error


def check_no_links(folder: Path) -> None:
    """Raise SipoError where the folder or anything in it is a symbolic link: what is removed could be elsewhere."""
    for each in (folder, *folder.rglob("*")):
        if each.is_symlink():
            raise SipoError(f"{each}: is a symbolic link, which sipo did not make there; remove the link")


def check_on_disk(place: Path | str) -> None:
    """Raise SipoError for an address: of all that is read and written, the folder of a run alone may lie in a store."""
    if in_a_store(place):
        raise SipoError(
            f"{named(place)}: lies on no disk; the folder of a run may lie in an object store, and nothing else; name "
            "one on a disk"
        )


def check_name(path: Path) -> None:
    """Raise SipoError where no model or Parquet file could be written: their libraries take UTF-8 names alone."""
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        raise SipoError(f"{path}: its name is not UTF-8, which models cannot be written under; name another") from None
