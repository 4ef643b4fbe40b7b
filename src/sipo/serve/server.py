"""The process: uvicorn over the endpoint, which ends by finishing what it has begun."""

import asyncio
import socket
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import APIRouter

from sipo.errors import SipoError
from sipo.serve.app import application
from sipo.serve.keys import Keys
from sipo.serve.service import Service
from sipo.serve.threads import compute_alone

LINGERS = 10
"""Ticks, of a tenth of a second, for which those who are connected and have yet to ask are refused in words."""
LEAVING = 5.0
"""Seconds at the end for what is on its way to clients, who may neither read nor end asking."""


class Server(uvicorn.Server):
    """The first signal drains: what runs is finished, the rest is refused. The second ends at once."""

    def __init__(
        self,
        service: Service,
        keys: Keys,
        host: str,
        port: int,
        origins: Sequence[str] = (),
        pages: Sequence[APIRouter] = (),
    ) -> None:
        app = application(service, keys, origins, pages)
        super().__init__(
            uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off")
        )
        self.service = service
        self._socket: socket.socket | None = None
        self._asked: int | None = None
        self._idle = 0
        """Ticks since it was asked to stop for which nothing has run."""

    def listen(self) -> None:
        """Take the address. Raises SipoError where that cannot be."""
        host, port = self.config.host, self.config.port
        try:
            self._socket = socket.create_server((host, port), family=_family(host), backlog=self.config.backlog)
        except (OSError, OverflowError) as error:
            raise SipoError(f"--host {host} --port {port}: cannot listen there ({error}); name others") from None

    @property
    def address(self) -> str:
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        assert self._socket is not None
        super().run([self._socket])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        compute_alone(asyncio.get_running_loop())
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = sig
            return
        self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hang_up = asyncio.get_running_loop().call_later(LEAVING, self._hang_up)
        await super().shutdown(sockets)
        hang_up.cancel()
        self._hang_up()  # where it ends at once
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)

    def _hang_up(self) -> None:
        """What is still under way for clients ends as if they had gone."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._asked is not None and not self.should_exit:
            self.service.drain()
            self._idle = self._idle + 1 if self.service.idle else 0
            if self._idle and (self._idle > LINGERS or not self.server_state.connections):
                super().handle_exit(self._asked, None)
        return await super().on_tick(counter)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
