"""Faults at moments of chance: where `make test-faults` takes them from, and the processes that they strike.

A moment is drawn from a seed, over the seconds that the work takes undisturbed. Those that strike a living process are
counted, and a test that strikes too few fails: it has shown nothing.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

SEED, ROUNDS = (int(os.environ.get(f"FAULTS_{name}", default)) for name, default in (("SEED", "0"), ("ROUNDS", "1")))
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""What a process that a signal ends exits with."""
PATIENCE = 600.0
"""Seconds in which any work of these tests ends."""
TRIALS = 40


class Chance:
    """The moments of one test. `least` is how many must strike."""

    def __init__(self, name: str, least: int) -> None:
        self.rng = random.Random(name)
        self.least, self.drawn, self.struck = least, 0, 0

    def trials(self, folder: Path) -> Iterator[Path]:
        """New folders to try it in, until enough has struck."""
        for number in count():
            if self.struck >= self.least:
                return
            assert number < TRIALS, f"{self.struck} of {self.drawn} moments struck, too few"
            place = folder / f"trial-{number}"
            place.mkdir()
            yield place

    def gaps(self, seconds: float, moments: int) -> list[float]:
        """Seconds between so many moments in a work of so many seconds."""
        at = sorted(self.rng.uniform(0, seconds) for _ in range(moments))
        return [later - earlier for earlier, later in pairwise([0.0, *at])]

    def strike(self, process: "Process", after: float, stop: signal.Signals = signal.SIGKILL) -> bool:
        """Send the signal after so many seconds. Did it end the process?"""
        self.drawn += 1
        status = process.stop(after, stop)
        assert status in (0, STATUS[stop]), f"status {status} after {stop.name}: {process.said()}"
        self.struck += status != 0
        return status != 0

    def disturbed(
        self,
        command: Sequence[str],
        log: Path,
        seconds: float,
        moments: int,
        *,
        start: float = 0.0,
        stops: Sequence[signal.Signals] = (signal.SIGKILL,),
        within: Callable[[], object] | None = None,
        made: Path | None = None,
    ) -> None:
        """Give the command again and again, stopped at so many moments of its work, and then to its end. `start` is how
        many seconds it takes to come to where it was. Once `made` is there, which is whole or absent, the command has
        done its work and is not given again.
        """
        for gap in self.gaps(seconds, moments):
            process = Process(command, log, within)
            if not self.strike(process, self.rng.uniform(0, start) + gap, self.rng.choice(stops)):
                return  # it was quicker than before
            if made and made.exists():
                return
        undisturbed(command, log, within)


class Process:
    """A command in a process of its own, forked: nothing is imported again. What it says is in `log`."""

    def __init__(self, command: Sequence[str], log: Path, within: Callable[[], object] | None = None) -> None:
        """`within` is called in the process, before the command."""
        self.log = log
        self._process = multiprocessing.get_context("fork").Process(target=self._work, args=(command, within))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STATUS)
        self._process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid = self._process.pid or 0

    def _work(self, command: Sequence[str], within: Callable[[], object] | None) -> None:
        import torch

        from sipo.cli.main import main

        for number in STATUS.keys() - {signal.SIGKILL}:  # before and after the command they end a process as in it
            signal.signal(number, lambda number, _: os._exit(128 + number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STATUS)
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(
            torch.get_num_threads()
        )  # where several threads come to it first, its pool may not be there
        status = 1
        try:
            if within:
                within()
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            status = main(command)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(status)

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    def join(self, seconds: float) -> None:
        self._process.join(seconds)

    def stop(self, after: float, stop: signal.Signals = signal.SIGKILL) -> int:
        """The status that it ends with where the signal comes after so many seconds."""
        self.join(after)
        if self.exitcode is None:
            os.kill(self.pid, stop)
        return self.end()

    def end(self) -> int:
        """The status that it ends with, by itself. What it said is no traceback."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            pytest.fail(f"it does not end: {self.said()}")
        assert "Traceback" not in self.said(), self.said()
        return self._process.exitcode or 0

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def undisturbed(command: Sequence[str], log: Path, within: Callable[[], object] | None = None) -> float:
    """Seconds that the command takes to its end."""
    began = time.monotonic()
    process = Process(command, log, within)
    assert process.end() == 0, process.said()
    return time.monotonic() - began


@pytest.fixture(params=range(SEED, SEED + ROUNDS))
def chance(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Chance]:
    """Of a test that is marked `faults` with how many moments must strike, once for each seed."""
    from whole import SHAPE

    mark = request.node.get_closest_marker("faults")
    chance = Chance(f"{request.param} {request.node.name}", mark.args[0])
    yield chance
    record_property("moments", (chance.drawn, chance.struck, str(SHAPE)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many moments were drawn, how many struck, and of what shape the runs were."""
    reports = [each for some in terminalreporter.stats.values() for each in some]
    found = [
        value
        for each in reports
        if getattr(each, "when", None) == "teardown"
        for name, value in each.user_properties
        if name == "moments"
    ]
    if found:
        drawn, struck = (sum(each[index] for each in found) for index in (0, 1))
        seeds = f"seed {SEED}" if ROUNDS == 1 else f"seeds {SEED} to {SEED + ROUNDS - 1}"
        terminalreporter.write_line(f"faults: {seeds}: {drawn} moments, {struck} struck; {found[0][2]}")
