"""Servers in processes of their own, asked for several streams at once over loopback."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from shutil import which
from tempfile import TemporaryFile
from typing import Any, Self

import httpx

from sipo.cli.signals import Stops
from sipo.errors import SipoError

START, ANSWER = 180.0, 600.0
"""Seconds in which a server begins to serve, and to answer."""

DYING = ["setpriv", "--pdeathsig", "KILL", "--"]
"""In front of a command: it does not outlive who starts it, however that ends. Linux has it."""


@dataclass(frozen=True)
class Stream:
    """An answer as it came."""

    text: str
    tokens: int
    """That the server counted."""
    first: float
    """Seconds from the request to the first piece of text."""
    longest: float
    """Seconds of the longest wait between two pieces."""


class Server:
    """`COMMAND --port PORT`, until the block ends. Raises SipoError where it does not come up."""

    def __init__(self, command: Sequence[str]) -> None:
        port = _free()
        self.url = f"http://127.0.0.1:{port}"
        self.command = [*(DYING if which(DYING[0]) else []), *command, "--port", str(port)]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)

    def start(self) -> None:
        """Again, after it has ended."""
        said = TemporaryFile()  # noqa: SIM115 lives as long as the process
        self.process = subprocess.Popen(self.command, stdout=said, stderr=said)
        ends = time.monotonic() + START
        while not _up(f"{self.url}/health"):
            if self.process.poll() is not None or time.monotonic() > ends:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise SipoError(f"`{' '.join(self.command)}` does not serve: {last}")
            time.sleep(0.1)

    def send(self, number: int) -> int:
        """A signal; the status that it has ended with."""
        self.process.send_signal(number)
        return self.process.wait(ANSWER)


def leaving_nothing(work: Callable[[], int]) -> int:
    """The work's status. A signal that ends it ends the servers that it started, processes of their own, too."""
    with Stops(lambda: None) as stops:
        stops.at_once = False
        try:
            return work()
        except KeyboardInterrupt:
            return stops.status


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def ask(url: str, bodies: Sequence[Mapping[str, Any]], after: float = 0.0) -> list[Stream]:
    """Streams of completions, all begun at once, or each so many seconds `after` the one before it.

    Raises SipoError where one is refused.
    """

    async def one(client: httpx.AsyncClient, place: int, body: Mapping[str, Any]) -> Stream:
        await asyncio.sleep(place * after)
        began, events = time.perf_counter(), []
        async with client.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    events.append((time.perf_counter() - began, line[6:]))
            if answer.status_code != 200:
                raise SipoError(f"{url}: refused a stream with status {answer.status_code}")
        return _stream(events)

    async def all_of_them() -> list[Stream]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=ANSWER, limits=limits, verify=False) as client:
            return list(await asyncio.gather(*(one(client, place, body) for place, body in enumerate(bodies))))

    return asyncio.run(all_of_them())


def _stream(events: Sequence[tuple[float, str]]) -> Stream:
    """Read when all is over: the clock does not wait for it."""
    text, tokens, came = "", 0, list[float]()
    for seconds, line in events:
        event = json.loads(line)
        if "error" in event:
            raise SipoError(f"a stream ended in an error: {event['error']}")
        piece = "".join(choice["text"] for choice in event["choices"] if choice["index"] == 0)
        if piece:
            came.append(seconds)
        text += piece
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    waits = [later - before for before, later in pairwise(came)]
    return Stream(text, tokens, came[0] if came else events[-1][0], max(waits, default=0.0))
