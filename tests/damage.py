"""What a partial copy, a full disk, bit rot or a power cut does to files; and runs to do it to."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def cut(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(max(1, len(content) - 1))])  # JSON without its last line's end is as good


def flipped(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def emptied(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def removed(file: Path, rng: random.Random) -> None:
    file.unlink()


def nulled(file: Path, rng: random.Random) -> None:
    """As journalling file systems leave what was not synced: of the right size, and all zero from some place on."""
    content = file.read_bytes()
    start = rng.randrange(len(content))
    file.write_bytes(content[:start] + b"\0" * (len(content) - start))


def repeated(file: Path, rng: random.Random) -> None:
    """A block twice: what is left is well formed in many formats."""
    content = file.read_bytes()
    file.write_bytes(content + content[len(content) // 2 :])


DAMAGES: tuple[Damage, ...] = (cut, flipped, emptied, removed, nulled, repeated)


def files_of(folder: Path) -> list[Path]:
    """Those that are not empty, hidden ones included, in order."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)


def results_of(run: Path) -> dict[str, str]:
    """What the stages came to, by content: all but times."""
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files_of(run)
        if not (name := str(file.relative_to(run))).startswith((".", "metrics", "report", "subject", "config"))
        and file.name != "stage.json"
    }
