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
        super().__init__(uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False))
        self.service = service
        self._socket: socket.socket | None = None
        self._asked: int | None = None

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

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._asked is not None and not self.should_exit:
            self.service.drain()
            if self.service.idle:
                super().handle_exit(self._asked, None)
        return await super().on_tick(counter)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
