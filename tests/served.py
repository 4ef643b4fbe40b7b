"""A run with every kind of method, and a server of it in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sipo
from sipo.config.file import parse_config
from sipo.finished.handle import FinishedRun
from sipo.play.routes import pages
from sipo.runs.pipeline import run
from sipo.serve.keys import Keys
from sipo.serve.naming import Served
from sipo.serve.server import Server
from sipo.serve.service import Limits, Service


@pytest.fixture(scope="session")
def served_run(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = make_settings(tmp_path_factory.mktemp("served"))
    settings["methods"] = ["base", "mod"]  # whose policies suffice for others
    settings["align"] = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    settings["evaluate"] = {"bootstrap": 20, "prompts": 1}
    return run(parse_config(settings, "settings"), until="compare", quiet=True)


@pytest.fixture(scope="session")
def opened(served_run: Path) -> FinishedRun:
    """What the server is held against: a handle, and a model, of its own."""
    return sipo.open(served_run)


class Running:
    """A server on a thread. Its service may be looked into."""

    def __init__(self, folder: Path, limits: Limits, keys: Keys) -> None:
        self.service = Service([Served.of("tiny", sipo.open(folder))], limits)
        self.server = Server(self.service, keys, "127.0.0.1", 0, pages=pages(self.service, keys))
        self.server.listen()
        self.service.start()
        self.url = self.server.address
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    @property
    def scheduler(self) -> Any:
        return self.service.schedulers["tiny"]

    def until(self, what: Callable[[], bool]) -> None:
        ends = time.monotonic() + 20
        while not what():
            assert time.monotonic() < ends, "it has not come"
            time.sleep(0.005)

    def close(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self._thread.join()
        self.service.close()


@pytest.fixture(scope="session")
def serving(served_run: Path) -> Iterator[Callable[..., Running]]:
    """Servers by their limits and keys; one of the same is started once."""
    started: dict[Any, Running] = {}

    def start(*keys: str, **limits: Any) -> Running:
        key = keys, tuple(sorted(limits.items()))
        if key not in started:
            started[key] = Running(served_run, Limits(**{"rows": 64, **limits}), Keys(keys))
        return started[key]

    yield start
    for each in started.values():
        each.close()
