"""Processes that work beside others: workers of a pool, parts of a stage, a server and those who ask it."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from chance import Chance, Process, undisturbed
from damage import files_of, results_of
from whole import Whole


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it has not come"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found in /proc")
@pytest.mark.slow
@pytest.mark.faults(2)
def test_workers_of_a_pool(make_whole: Callable[..., Whole], tmp_path: Path, chance: Chance) -> None:
    """SIGKILL of a worker, or of the process that asks | `sipo run --only align` with `execution.engine: pool` | one line, no worker
    is left; then tables, texts, adapters
    """
    align = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    execution = {"device": "cpu", "engine": "pool", "workers": 2, "decode_rows": 3, "checkpoint_seconds": 0}
    whole = make_whole("pool", "--only", "align", methods=["base"], align=align, execution=execution)
    for place in chance.trials(tmp_path):
        for gap in chance.gaps(whole.seconds, 2):
            process = Process(whole.into(place / "run"), place / "log")
            chosen = chance.rng.choice(("one", "all", "it"))
            chance.drawn += 1
            until(lambda process=process: children_of(process.pid) or process.exitcode is not None)
            process.join(gap)
            workers = children_of(process.pid)
            for pid in {"one": workers[:1], "all": workers, "it": [process.pid]}[chosen]:
                os.kill(pid, signal.SIGKILL)
            status = process.end()
            until(lambda workers=workers: not any(Path(f"/proc/{pid}/environ").exists() for pid in workers))
            if status == 0:
                break
            if status == 2:
                assert "of the pool was killed by SIGKILL" in process.said()
            assert status in (2, -9), process.said()
            chance.struck += 1
        undisturbed(whole.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(whole.run)


@pytest.mark.faults(4)
def test_parts_of_a_stage(make_whole: Callable[..., Whole], tmp_path: Path, chance: Chance) -> None:
    """SIGKILL of some of N processes that make a policy each | `sipo run --only align --objective NAME`, all at once |
    tables, texts, adapters
    """
    execution = {"device": "cpu", "train_together": 1, "checkpoint_seconds": 0}  # alone as beside others
    brief = make_whole("parts", "--only", "align", count=3, methods=["base"], execution=execution)
    seconds = undisturbed(brief.into(tmp_path / "run", "--objective", "detail"), tmp_path / "log")
    for place in chance.trials(tmp_path):
        for _ in range(3):
            parts = [
                Process(brief.into(place / "run", "--objective", name), place / f"log-{name}")
                for name in brief.objectives
            ]
            for part in parts:
                chance.strike(part, chance.rng.uniform(0, 1.2 * seconds / len(parts)))
        undisturbed(brief.into(place / "run"), place / "log")
        assert results_of(place / "run") == results_of(brief.run)


@pytest.mark.faults(3)
def test_a_server(served_run: Path, bank: Any, tmp_path: Path, chance: Chance) -> None:
    """SIGKILL while four ask | `sipo serve` | started again, the same answers; the run stays as it was, byte for byte"""
    import sipo.serve.server  # noqa: F401

    run = shutil.copytree(served_run, tmp_path / "run")
    before = {file.relative_to(run): file.read_bytes() for file in files_of(run)}
    answers = set[tuple[str, ...]]()
    for place in chance.trials(tmp_path):
        process = Process(["serve", f"tiny={run}", "--port", "0", "--json"], place / "log")
        until(lambda process=process: process.said().startswith("{") and "\n" in process.said())
        url = json.loads(process.said().splitlines()[0])["url"]
        answers.add(tuple(text(url, "mod", seed) or "" for seed in range(3)))

        def ask(url: str = url) -> None:
            """Until nobody answers."""
            for seed in range(10_000):
                if text(url, ("base", "mod")[seed % 2], seed) is None:
                    return

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for each in asking:
            each.start()
        chance.strike(process, chance.rng.uniform(0, 1.5))
        for each in asking:
            each.join()
        assert {file.relative_to(run): file.read_bytes() for file in files_of(run)} == before
    assert len(answers) == 1 and all(answers.pop())


def text(url: str, method: str, seed: int) -> str | None:
    """An answer; None where the server has gone."""
    asked = {"model": f"tiny/{method}", "messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "seed": seed}
    try:
        answer = httpx.post(f"{url}/chat/completions", json={**asked, "temperature": 5.0}, timeout=60)
    except httpx.TransportError:
        return None
    return str(answer.json()["choices"][0]["message"]["content"])
