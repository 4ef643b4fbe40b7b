"""A full disk, files that may grow no more, folders that nobody may write in: one line, and then the same end."""

import ctypes
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chance import Chance, Process, undisturbed
from damage import files_of, results_of
from whole import Whole, commands, whole_of

LEAST = 600
"""Bytes, in which an error is told."""


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_of(folder))


def told(process: Process) -> str:
    """The one line with which it ended."""
    lines = [line for line in process.said().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, process.said()
    return lines[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of its own, of so many KiB; again, of another size."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def sized(kib: int) -> Path:
        nonlocal mounted
        options = f"size={kib}k,{'remount' if mounted else 'mode=755'}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("no disk can be mounted here")
        mounted = True
        return place

    yield sized
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.faults(6)
def test_a_disk_that_is_full(brief: Whole, tmp_path: Path, chance: Chance, small_disk: Callable[[int], Path]) -> None:
    """a full disk (a real one, of few KiB), some room more at each time | `sipo run` | tables, texts,
    adapters
    """
    for place in chance.trials(tmp_path):
        kib = 4 * size_of(brief.run) // 1024
        sizes = sorted(chance.rng.uniform(0, 0.5) ** 2 * kib for _ in range(8))
        for size in sizes:
            run = small_disk(int(size) + 8) / "run"
            process = Process(brief.into(run), place / "log")
            chance.drawn += 1
            if (status := process.end()) == 0:
                break
            assert status == 2 and "the disk is full" in told(process)
            chance.struck += 1
        run = small_disk(8 * kib) / "run"
        undisturbed(brief.into(run), place / "log")
        assert results_of(run) == results_of(brief.run)
        shutil.rmtree(run)


def no_longer_than(size: int) -> Callable[[], None]:
    """Files may have no more than so many bytes, whichever library writes them; what is said on stderr is shorter."""

    def within() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return within


@pytest.mark.faults(6)
def test_files_that_may_grow_no_more(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """a limit on the size of files (`ulimit -f`), some bytes more at each time | `sipo run` | tables,
    texts, adapters
    """
    largest = max(file.stat().st_size for file in files_of(brief.run))
    for place in chance.trials(tmp_path):
        for size in sorted(max(LEAST, int(largest ** chance.rng.uniform(0.6, 1))) for _ in range(8)):
            chance.drawn += 1
            process = Process(brief.into(place / "run"), place / "log", no_longer_than(size))
            if (status := process.end()) == 0:
                break
            assert status == 2 and "file too large" in told(process).lower()
            chance.struck += 1
        undisturbed(brief.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(brief.run)


@pytest.mark.parametrize("name", ["prepare", "label", "reward", "export"])
@pytest.mark.faults(3)
def test_other_commands(brief: Whole, model_folder: Path, tmp_path: Path, name: str, chance: Chance) -> None:
    """a limit on the size of files | `sipo data prepare`, `data label`, `reward train`, `export` | nothing
    half-written; then the file or folder
    """

    target = "out.jsonl" if name == "label" else "out"
    export = ["export", str(brief.run), *brief.shares, "--method", "soups", "--merged", "--to"]
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
            assert status == 2 and f"error: {place / 'within' / target}: file too large" in told(process)
            assert not (place / "within" / target).exists()
            chance.struck += 1
            undisturbed(again, place / "log")
        assert whole_of(place / "within" / target) == expected


def as_others() -> None:
    """Even for root: what the mode of a folder forbids is forbidden."""
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, sets) == 0
        for index in (0, 1, 2):
            sets[index] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        assert libc.capset(header, sets) == 0


@pytest.mark.faults(5)
def test_folders_that_may_not_be_written(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """a folder of the run made read-only, after SIGKILL | `sipo run` | one line that names it; then tables, texts,
    adapters
    """
    command: list[str]
    for place in chance.trials(tmp_path):
        command = brief.into(place / "run")
        Process(command, place / "log").stop(chance.rng.uniform(0, brief.seconds))
        folders = [place, *(each for each in (place / "run", *(place / "run").rglob("*")) if each.is_dir())]
        locked = chance.rng.choice(folders)
        mode = stat.S_IMODE(locked.stat().st_mode)
        (tmp_path / "logs").mkdir(exist_ok=True)
        log = tmp_path / "logs" / place.name
        locked.chmod(0o555)
        process = Process(command, log, as_others)
        chance.drawn += 1
        status = process.end()
        if locked.exists():  # an empty one of what was in progress may have been removed
            locked.chmod(mode)
        assert status in (0, 2), process.said()
        if status:
            assert str(locked) in told(process)
            chance.struck += 1
        undisturbed(command, log)
        assert results_of(place / "run") == results_of(brief.run)
