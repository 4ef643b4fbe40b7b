"""Runs in an object store: machines lost with their disks, writers killed at any request, requests that fail."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from chance import Chance, Process, undisturbed
from damage import results_of
from stores import BUCKET, die_at
from whole import Whole

import sipo
from sipo.disk import writer as writer_module
from sipo.disk.copies import _copy
from sipo.disk.objects import Objects

LEASE = 1.0
"""Seconds: it is renewed four times in each, and over after two, since the store tells time in seconds."""


def machine(disk: Path, also: Callable[[], None] | None = None) -> Callable[[], None]:
    """In a process: it is on the machine with this disk."""

    def within() -> None:
        os.environ["SIPO_CACHE"] = str(disk)
        writer_module.LEASE = LEASE
        if also:
            also()

    return within


def failing(rng: random.Random, count: Path, share: float) -> Callable[[], None]:
    """This share of the requests is lost, or its answer is."""

    def within() -> None:
        tried, failed = Objects._tried, 0

        def fail() -> None:
            nonlocal failed
            if rng.random() < share / 2:
                failed += 1
                count.write_text(str(failed))
                raise ConnectionError("reset by peer")

        def flaky(self: Objects, work: Callable[[], Any]) -> Any:
            def once() -> Any:
                fail()
                answer = work()
                fail()
                return answer

            return tried(self, once)

        Objects._tried = flaky  # type: ignore[method-assign]

    return within


def read_back(name: str, disk: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The results in the store, every byte compared with its record, as a machine finds them that was never there."""
    monkeypatch.setenv("SIPO_CACHE", str(disk))
    _copy.cache_clear()
    run = sipo.open(name)
    for stage in run.path.rglob("stage.json"):
        sipo.Outputs(run.path, run.config).folder.verify(stage.parent.relative_to(run.path).as_posix())
    return results_of(run.path)


@pytest.mark.slow
@pytest.mark.faults(4)
def test_machines_that_are_lost(
    brief: Whole, s3: Any, tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, after which the disk is lost too, or is not | `sipo run` to an object store | tables,
    texts, adapters, from any machine
    """
    for place in chance.trials(tmp_path):
        name, disk = f"s3://{BUCKET}/{uuid4().hex}/run", place / "disk"
        for gap in chance.gaps(2 * brief.seconds, 4):
            process = Process(brief.into(name), place / "log", machine(disk))
            if not chance.strike(process, chance.rng.uniform(0, brief.start) + gap):
                break
            if chance.rng.random() < 0.7:
                shutil.rmtree(disk, ignore_errors=True)
                time.sleep(2.1 * LEASE)
        undisturbed(brief.into(name), place / "log", machine(disk))
        assert read_back(name, place / "reader", monkeypatch) == results_of(brief.run)


@pytest.mark.slow
@pytest.mark.faults(5)
def test_writers_that_are_killed_at_a_request(
    brief: Whole, s3: Any, tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at a request to the store, the renewal of its lease among them | `sipo run` to an object store | tables,
    texts, adapters, from any machine
    """
    count = tmp_path / "count"
    name = f"s3://{BUCKET}/{uuid4().hex}/run"
    counted = partial(die_at, 0, tell=lambda made: count.write_text(str(made)))
    undisturbed(brief.into(name), tmp_path / "log", machine(tmp_path / "disk", counted))
    requests = int(count.read_text())
    for place in chance.trials(tmp_path):
        name = f"s3://{BUCKET}/{uuid4().hex}/run"
        for life in range(5):
            kill = partial(die_at, chance.rng.randint(1, requests))
            chance.drawn += 1
            process = Process(brief.into(name), place / "log", machine(place / str(life), kill))
            status = process.end()
            assert status in (0, -signal.SIGKILL), process.said()
            if status == 0:
                break
            chance.struck += 1
            time.sleep(2.1 * LEASE)
        undisturbed(brief.into(name), place / "log", machine(place / "last"))
        assert read_back(name, place / "reader", monkeypatch) == results_of(brief.run)


@pytest.mark.faults(10)
def test_requests_that_fail(
    brief: Whole, s3: Any, tmp_path: Path, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a request to the store is lost, or its answer is | `sipo run` to an object store | tables, texts, adapters, from
    any machine
    """
    for place in chance.trials(tmp_path):
        name, count = f"s3://{BUCKET}/{uuid4().hex}/run", place / "count"
        within = machine(place / "disk", failing(chance.rng, count, 0.2))
        undisturbed(brief.into(name), place / "log", within)
        failed = int(count.read_text()) if count.exists() else 0
        chance.drawn, chance.struck = chance.drawn + failed, chance.struck + failed
        assert read_back(name, place / "reader", monkeypatch) == results_of(brief.run)
