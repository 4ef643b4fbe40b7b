"""An endpoint of OpenAI's protocol, asked over HTTP: within a time, again where that may help, and no more is sent than
was asked for.
"""

import json
import os
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from sipo.commands import install_extra
from sipo.errors import SipoError
from sipo.plain import plain
from sipo.rewards.kinds.judge import Judge
from sipo.rewards.reply import LARGEST, Answer, PassingError, Reply, read_answer

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before a request is repeated, which double each time, where the endpoint does not say how many."""
PATIENCE = 600.0
"""Seconds that the endpoint may ask to wait; where it asks for more, that is told instead."""
SECRET = 6
"""Characters of a key that is one: `none` and `EMPTY` are written for servers that want any."""
LOOKING = 10.0
"""Seconds for the answer to a look."""


class Endpoint:
    """The server that the settings name. Raises SipoError where no key is to be had."""

    def __init__(self, settings: Judge) -> None:
        _httpx()
        self.settings, self._key = settings, ""
        self._headers = {"User-Agent": "sipo", "Accept": "application/json"}
        if settings.key_variable is not None:
            self._key = os.environ.get(settings.key_variable, "").strip()
            if not self._key:
                raise SipoError(f"the variable {settings.key_variable} is not set; put the endpoint's key in it")
            if not (self._key.isascii() and self._key.isprintable()):
                raise SipoError(f"the variable {settings.key_variable} holds what no header can carry; is it the key?")
            bare = settings.key_header.lower() != "authorization" or " " in self._key
            self._headers[settings.key_header] = self._key if bare else f"Bearer {self._key}"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        """Connections, to be given to `ask`."""
        httpx = _httpx()
        limits = httpx.Limits(max_connections=self.settings.concurrency)
        try:
            client = httpx.AsyncClient(headers=self._headers, timeout=None, limits=limits)
        except Exception as error:  # proxies and certificates are the user's own settings
            look = "look at the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            raise SipoError(f"the network cannot be used ({_said(error)}); {look}") from None
        async with client:
            yield client

    async def ask(self, client: Any, pace: "Pace", messages: Sequence[Mapping[str, str]], **fields: Any) -> Answer:
        """The first choice. Raises RefusalError, PassingError where the last try failed as one that may pass, or
        SipoError for what more tries would not mend.
        """
        from anyio import sleep

        body = {"model": self.settings.model, "messages": messages, **fields, **self.settings.options}
        content = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", json.dumps(body, ensure_ascii=False))
        for repeated in range(self.settings.retries + 1):
            await pace.wait()
            try:
                answer = read_answer(await self._reply(client, "POST", "chat/completions", content.encode()))
                return Answer(*map(self._without_key, answer))
            except PassingError as trouble:
                what, way_out, after, busy = trouble.what, trouble.way_out, trouble.after, trouble.busy
            except SipoError as error:
                raise type(error)(self._without_key(str(error))) from None
            if after is not None and after > PATIENCE:
                what, way_out = f"{what}, and asks to wait {after:.0f} s", f"go on then; {way_out}"
                break
            if repeated < self.settings.retries:
                wait = min(FIRST_WAIT * 2**repeated, LONGEST_WAIT) * random.uniform(0.75, 1.25)
                await sleep(wait if after is None else after)
        times = f", {repeated + 1} times" if repeated else ""
        raise PassingError(self._without_key(f"{what}{times}"), way_out, busy=busy)

    async def look(self) -> None:
        """One small request that costs nothing: is anybody there, and does the key fit? Raises SipoError if not."""
        async with self.opened() as client:
            try:
                reply = await self._reply(client, "GET", "models", seconds=LOOKING)
                page = reply.status == 200 and (reply.body or b"").lstrip()[:1] == b"<"
                if page or 300 <= reply.status < 400 or reply.status in (401, 403):  # not all servers list their models
                    read_answer(reply)
            except SipoError as error:
                if not (isinstance(error, PassingError) and error.busy):
                    raise SipoError(self._without_key(str(error))) from None

    async def _reply(
        self, client: Any, method: str, path: str, content: bytes | None = None, seconds: float | None = None
    ) -> Reply:
        """Within the time there is for all of it, however slowly it comes. Raises PassingError."""
        from anyio import fail_after

        seconds = seconds or self.settings.timeout
        parts = urlsplit(self.settings.judge)
        url = parts._replace(path=f"{parts.path.rstrip('/')}/{path}").geturl()
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            with fail_after(seconds):
                async with client.stream(method, url, content=content, headers=headers) as response:
                    body = bytearray()
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > LARGEST:
                            return Reply(response.status_code, response.headers, None)
                    return Reply(response.status_code, response.headers, bytes(body))
        except TimeoutError as error:
            raise PassingError(f"no answer within {seconds:g} s", "raise timeout", busy=True) from error
        except _httpx().DecodingError as error:
            raise PassingError(f"answered what cannot be unpacked ({_said(error)})", "see the server's log") from error
        except _httpx().TransportError as error:
            raise PassingError(f"cannot be reached ({_said(error)})", "is the server running?") from error
        except Exception as error:  # whatever else a server may do to a client
            raise PassingError(f"cannot be asked ({_said(error)})", "is it an OpenAI-compatible endpoint?") from error

    def _without_key(self, line: str) -> str:
        secret = self._key.rpartition(" ")[2]
        return line.replace(secret, "***") if len(secret) >= SECRET else line


class Pace:
    """Lets requests through at most so often a minute, evenly."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = monotonic()

    async def wait(self) -> None:
        from anyio import sleep

        if self._gap:
            mine = max(self._next, monotonic())
            self._next = mine + self._gap
            await sleep(max(0.0, mine - monotonic()))


def _said(error: BaseException) -> str:
    """What an exception says, with no address in it."""
    text = re.sub(r"\S+://\S+", "...", str(error))
    return plain(" ".join(text.split()))[:200] or type(error).__name__


def _httpx() -> Any:
    try:
        import httpx2  # an optional extra
    except ModuleNotFoundError as error:
        raise SipoError(f"no module named `{error.name}`; `{install_extra('judge')}`") from None
    return httpx2
