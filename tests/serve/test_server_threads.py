"""Models' threads alone have several of OpenMP's: more of them than cores would have all wait asleep."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sipo
from sipo.errors import SipoError
from sipo.serve.keys import Keys
from sipo.serve.naming import Served
from sipo.serve.scheduler import Look
from sipo.serve.server import Server
from sipo.serve.service import Limits, Service
from sipo.serve.threads import in_passing

THREADS = 3


@pytest.fixture
def several() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_models_compute_with_all_threads_and_nothing_else_with_more_than_one(served_run: Path, several: None) -> None:
    loaded: list[threading.Thread] = []

    class Loading(Service):
        def _load(self) -> None:
            loaded.append(threading.current_thread())
            super()._load()

    service = Loading([Served.of("tiny", sipo.open(served_run))], Limits(8))
    server = Server(service, Keys(), "127.0.0.1", 0)
    server.listen()
    service.start()
    loaded[0].join(5)
    assert not loaded[0].is_alive()
    found: dict[str, int] = {}

    def models() -> int:
        look = Look((), lambda places, mounted: torch.get_num_threads())
        service.schedulers["tiny"].look(look)
        return int(look.found.result(20))

    async def looked() -> None:
        found["loop"] = torch.get_num_threads()
        found["reader"] = await asyncio.to_thread(torch.get_num_threads)
        found["model"] = await asyncio.to_thread(models)
        server.should_exit = True

    async def serving() -> None:
        await asyncio.gather(server.serve([server._socket] if server._socket else None), looked())

    thread = threading.Thread(target=lambda: asyncio.run(serving()))
    thread.start()
    thread.join(20)
    service.close()
    assert found == {"loop": 1, "reader": 1, "model": THREADS}
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize("error", [SipoError("it does not fit"), SystemExit(3)])
def test_what_goes_wrong_while_models_are_loaded_is_told_to_who_started_it(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        in_passing(work)
    assert raised.value is error
