"""The blocks of the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


class Block(NamedTuple):
    page: str
    line: int
    kind: str
    """What a fence calls it; empty for an indented block."""
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    lines, name = page.read_text(encoding="utf-8").splitlines(), page.relative_to(ROOT).as_posix()
    at = 0
    while at < len(lines):
        end = at + 1
        if lines[at].startswith("```"):
            while not lines[end].startswith("```"):
                end += 1
            yield Block(name, at + 1, lines[at][3:].strip(), "\n".join(lines[at + 1 : end]))
            end += 1
        elif lines[at].startswith("    ") and not (at and lines[at - 1].strip()):
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(name, at + 1, "", "\n".join(line[4:] for line in lines[at:end]).rstrip())
        at = end


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell block, without comments, their variables filled in."""
    known: dict[str, str] = {}
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for name, value in known.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.*)", words[0], re.DOTALL)):
            known[given[1]] = given[2]
        elif words:
            found.append(words)
    return found
