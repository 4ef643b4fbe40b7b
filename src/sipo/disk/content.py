"""What is in large files, roughly: enough to notice that a model has been replaced, in no time."""

from collections.abc import Iterator
from pathlib import Path

EDGE = 1 << 20


def rough_content(folder: Path) -> Iterator[bytes]:
    """The names, sizes and edges of the files in a folder, in order: every byte of a checkpoint would take minutes."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            yield f"{file.name}:{file.stat().st_size}".encode()
            with file.open("rb") as stream:
                yield stream.read(EDGE)
                stream.seek(max(0, file.stat().st_size - EDGE))
                yield stream.read()
