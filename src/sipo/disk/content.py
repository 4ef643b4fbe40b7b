"""What is in texts and files: in short, to name it; roughly, to notice that a model has been replaced; or to the last
bit, to notice any damage.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

EDGE = 1 << 20

Seal = dict[str, dict[str, Any]]
"""By a file's name within its folder: `size` in bytes, and `sha256`."""


def short_digest(content: str | bytes | Iterable[bytes | memoryview]) -> str:
    """16 hex digits that name the content, or its parts in order."""
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def rough_content(path: Path) -> Iterator[bytes]:
    """The name, size and edges of a file, or those of the files in a folder, in order: every byte of a checkpoint would
    take minutes.
    """
    for file in _in(path):
        yield f"{file.name}:{file.stat().st_size}".encode()
        with file.open("rb") as stream:
            yield stream.read(EDGE)
            stream.seek(max(0, file.stat().st_size - EDGE))
            yield stream.read()


def rough_digest(path: Path) -> str:
    """Of that, read once a process as long as the files stay as they are."""
    return _rough(path, tuple((file.name, *_about(file)) for file in _in(path)))


def _in(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())


@cache
def _rough(path: Path, _: tuple[tuple[object, ...], ...]) -> str:
    return short_digest(rough_content(path))


def seal_of(folder: Path, without: Iterable[str] = ()) -> Seal:
    """Of all files in a folder but those named and the hidden ones, of which none is ours to keep."""
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(_files(folder, folder))
        if name not in without
    }


def flaw_in(folder: Path, seal: Seal, *, every_byte: bool) -> tuple[Path, str] | None:
    """The first file that is missing, or not as it was sealed: where, and what is wrong. By size, or by every byte."""
    for name, about in seal.items():
        file = folder / name
        if not file.is_file():
            return file, "it is missing"
        if (size := file.stat().st_size) != about["size"]:
            return file, f"it has {size} bytes, not {about['size']}"
        if every_byte and sha256_of(file) != about["sha256"]:
            return file, "its content changed"
    return None


def foreign_to(folder: Path, known: Iterable[str]) -> Path | None:
    """A file or folder that is not hidden and neither known nor on the way to what is known."""
    names = {str(part) for name in known for part in (Path(name), *Path(name).parents)}
    return _foreign(folder, folder, names)


def _foreign(folder: Path, top: Path, names: set[str]) -> Path | None:
    for each in sorted(folder.iterdir()):
        if each.name.startswith("."):
            continue
        if str(each.relative_to(top)) not in names:
            return each
        if each.is_dir() and (found := _foreign(each, top, names)):
            return found
    return None


def _files(folder: Path, top: Path) -> Iterator[str]:
    for each in folder.iterdir():
        if each.is_dir() and not each.name.startswith("."):
            yield from _files(each, top)
        elif not each.name.startswith("."):
            yield each.relative_to(top).as_posix()


def sha256_of(file: Path) -> str:
    """Once a process for a file that stays as it is."""
    return _sha256(os.fspath(file.absolute()), *_about(file))


def _about(file: Path) -> tuple[int, int, int]:
    """What changes when the file does."""
    about = file.stat()
    return about.st_ino, about.st_size, about.st_ctime_ns


@cache
def _sha256(file: str, inode: int, size: int, changed: int) -> str:
    with open(file, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def is_seal(value: Any) -> bool:
    """Is it a seal, and one that names files within the folder alone?"""
    return isinstance(value, Mapping) and all(
        isinstance(about, Mapping) and about.keys() >= {"size", "sha256"} for about in value.values()
    )
