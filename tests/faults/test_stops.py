"""Asked to stop at any moment, by whatever signal, while clocks jump; and output that nobody reads to its end."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chance import STATUS, Chance, Process, undisturbed
from damage import results_of
from small import write_rows
from whole import Other, Whole, whole_of

ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
YEARS = 1e9
"""Some thirty, in seconds."""


def jumping(rng: random.Random) -> Callable[[], None]:
    """The time of day is another at every look."""

    def within() -> None:
        true = time.time
        time.time = lambda: true() + rng.choice((-YEARS, -3600.0, 0.0, 3600.0, YEARS))  # type: ignore[assignment]

    return within


@pytest.mark.faults(5)
def test_a_run_while_clocks_jump(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGINT, SIGTERM, SIGHUP, while the time of day jumps by an hour or 30 years, back too | `sipo run`
    | tables, texts, adapters
    """
    for place in chance.trials(tmp_path):
        chance.disturbed(
            brief.into(place / "run"),
            place / "log",
            brief.seconds,
            8,
            start=brief.start,
            stops=ASKED,
            within=jumping(chance.rng),
        )
        assert results_of(place / "run") == results_of(brief.run)


@pytest.mark.faults(3)
def test_a_run_on_another_day(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL, after which the clock is set back by days | `sipo run` | tables, texts, adapters"""
    for place in chance.trials(tmp_path):
        days = iter((0.0, -3.0, 5.0, -400.0))
        for gap in chance.gaps(brief.seconds, 3):
            shift, true = 86400.0 * next(days), time.time
            process = Process(
                brief.into(place / "run"),
                place / "log",
                lambda shift=shift, true=true: setattr(time, "time", lambda: true() + shift),  # type: ignore[misc]
            )
            if not chance.strike(process, brief.start * chance.rng.random() + gap):
                break
        undisturbed(brief.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(brief.run)


@pytest.mark.faults(4)
def test_an_impatient_person(brief: Whole, tmp_path: Path, chance: Chance) -> None:
    """two or three of SIGINT, SIGTERM, SIGHUP, within a few hundredths of a second | `sipo run` | tables, texts,
    adapters
    """
    for place in chance.trials(tmp_path):
        for gap in chance.gaps(brief.seconds, 4):
            process = Process(brief.into(place / "run"), place / "log")
            process.join(brief.start * chance.rng.random() + gap)
            chance.drawn += 1
            for _ in range(chance.rng.choice((2, 3))):
                if process.exitcode is None:
                    os.kill(process.pid, chance.rng.choice(ASKED))
                    process.join(chance.rng.uniform(0, 0.05))
            status = process.end()
            assert status in (0, *(STATUS[stop] for stop in ASKED)), process.said()
            chance.struck += status != 0
            if status == 0:
                break
        undisturbed(brief.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(brief.run)


@pytest.mark.parametrize("name", ["label", "reward"])
@pytest.mark.faults(3)
def test_other_commands(model_folder: Path, bank: Any, tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGINT, SIGTERM, SIGHUP | `sipo data label`, `reward train` | the file or folder, nothing beside it"""
    other = Other(name, tmp_path, model_folder)
    for place in chance.trials(tmp_path):
        command = other.into(place / "within")
        made = place / "within" / other.target
        chance.disturbed(command, place / "log", other.seconds, 3, stops=ASKED, made=made)
        assert whole_of(made) == other.whole


READ = {
    "status": ["status", "{run}"],
    "compare": ["compare", "{run}"],
    "choose": ["choose", "{run}", "--knee"],
    "generate": ["generate", "{run}", "--weights", "{shares}", "--prompt", "tell me", "--max-tokens", "40"],
    "check": ["check", "{config}"],
    "inspect": ["data", "inspect", "{rows}"],
}


@pytest.mark.parametrize("name", [*READ, "run"])
@pytest.mark.faults(2)
def test_output_to_head(brief: Whole, tmp_path: Path, name: str, chance: Chance) -> None:
    """SIGPIPE: the reader of the output goes after some bytes (`head`) | every command that tells people something |
    no word of it; a run goes on to the same tables
    """
    from sipo.cli.main import UNREAD

    rows, given = write_rows(tmp_path), READ.get(name)
    for place in chance.trials(tmp_path):
        places = {"run": brief.run, "config": brief.config, "rows": rows, "shares": brief.shares[1]}
        command = [word.format(**places) for word in given] if given else brief.into(place / "run")
        ours, theirs = os.pipe()

        def within(theirs: int = theirs, ours: int = ours) -> None:
            os.close(ours)
            os.dup2(theirs, 1)
            os.close(theirs)

        process = Process(command, place / "log", within)
        os.close(theirs)
        wanted = chance.rng.randrange(300)
        while wanted and (piece := os.read(ours, wanted)):
            wanted -= len(piece)
        os.close(ours)
        chance.drawn += 1
        status = process.end()
        assert status in (0, UNREAD) and not process.said(), (status, process.said())
        chance.struck += status == UNREAD
        if not given:
            undisturbed(command, place / "log")
            assert results_of(place / "run") == results_of(brief.run)
