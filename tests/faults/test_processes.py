"""Processes that work beside others: workers of a pool, parts of a stage, a server and those who ask it."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from chance import Chance, Process
from damage import files_of


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
