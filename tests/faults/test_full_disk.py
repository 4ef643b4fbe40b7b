"""A full disk, files that may grow no more, folders that nobody may write in: one line, and then the same end."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from chance import Chance, Process, undisturbed
from damage import files_of
from whole import SHARES, Whole, commands, whole_of

LEAST = 600
"""Bytes, in which an error is told."""


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_of(folder))


def told(process: Process) -> str:
    """The one line with which it ended."""
    lines = [line for line in process.said().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, process.said()
    return lines[0]


def no_longer_than(size: int) -> Callable[[], None]:
    """Files may have no more than so many bytes, whichever library writes them; what is said on stderr is shorter."""

    def within() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return within


@pytest.mark.parametrize("name", ["prepare", "label", "reward", "export"])
@pytest.mark.faults(3)
def test_other_commands(brief: Whole, model_folder: Path, tmp_path: Path, name: str, chance: Chance) -> None:
    """a limit on the size of files | `sipo data prepare`, `data label`, `reward train`, `export` | nothing
    half-written; then the file or folder
    """

    target = "out.jsonl" if name == "label" else "out"
    export = ["export", str(brief.run), *SHARES, "--method", "soups", "--merged", "--to"]
    command = export if name == "export" else commands(tmp_path, model_folder)[name]
    (tmp_path / "whole").mkdir()
    undisturbed([*command, str(tmp_path / "whole" / target)], tmp_path / "log")
    expected = whole_of(tmp_path / "whole" / target)
    largest = max(map(len, expected.values()))
    for place in chance.trials(tmp_path):
        (place / "within").mkdir()
        again = [*command, str(place / "within" / target)]
        size = max(LEAST, int(largest * chance.rng.uniform(0.02, 1)))
        process = Process(again, place / "log", no_longer_than(size))
        chance.drawn += 1
        status = process.end()
        if status:
            assert status == 2 and "file too large" in told(process).lower()
            assert not (place / "within" / target).exists()
            chance.struck += 1
            undisturbed(again, place / "log")
        assert whole_of(place / "within" / target) == expected
