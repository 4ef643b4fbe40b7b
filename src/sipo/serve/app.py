"""The endpoint: OpenAI's chat completions, completions and models, and what those who run a server ask of it."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from sipo.serve.keys import Keys
from sipo.serve.naming import Named, resolve
from sipo.serve.scheduler import Ask
from sipo.serve.service import Service
from sipo.serve.telling import Piece, pieces
from sipo.serve.wire import ApiError, ChatForm, ChatRequest, CompletionForm, CompletionRequest, Form, read, usage

QUIET = 15.0
"""Seconds after which a stream without news says that it is there."""
GONE = 499
"""The status, for metrics, of a request whose client went away."""
READS = ["GET", "HEAD"]
T = TypeVar("T")


def application(service: Service, keys: Keys, origins: Sequence[str] = (), pages: Sequence[APIRouter] = ()) -> FastAPI:
    """`origins` are those of web pages elsewhere that may ask; `*` is all. `pages` stand beside the endpoint, and their
    errors look as its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    for router in (_open_to_all(service), _for_clients(service, keys), *pages):
        app.include_router(router)

    @app.exception_handler(ApiError)
    def refused(_: Request, error: ApiError) -> JSONResponse:
        service.metrics.requests.labels(str(error.status)).inc()
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    def nowhere(request: Request, error: HTTPException) -> JSONResponse:
        told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        told.headers |= error.headers or {}
        return refused(request, told)

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        return refused(request, ApiError(500, f"the server failed ({type(error).__name__})"))

    return app


def _open_to_all(service: Service) -> APIRouter:
    router = APIRouter()

    @router.api_route("/health", methods=READS)
    def health() -> Response:
        """Is the process well?"""
        return JSONResponse({"status": "ok" if service.healthy else "failed"}, 200 if service.healthy else 503)

    @router.api_route("/ready", methods=READS)
    def ready() -> Response:
        """Does it take requests?"""
        return JSONResponse({"status": "ready" if service.ready else "stopping"}, 200 if service.ready else 503)

    @router.api_route("/metrics", methods=READS)
    def metrics() -> Response:
        page, kind = service.metrics.page()
        return Response(page, headers={"Content-Type": kind})

    return router


def with_a_key(keys: Keys) -> Any:
    """What a route depends on that is for those alone who have one."""

    def known(request: Request) -> None:
        keys.check(request.headers.get("Authorization"))

    return Depends(known)


def _for_clients(service: Service, keys: Keys) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[with_a_key(keys)])

    def shown(name: str, about: dict[str, Any]) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.created, "owned_by": "sipo", "sipo": about}

    @router.api_route("/models", methods=READS)
    def models() -> dict[str, Any]:
        data = [
            shown(name, {"objectives": served.run.objectives})
            for served in service.runs.values()
            for name in served.names()
        ]
        return {"object": "list", "data": data}

    @router.api_route("/models/{name:path}", methods=READS)
    async def model(name: str) -> dict[str, Any]:
        named = await asyncio.to_thread(resolve, service.runs, name, None)
        return shown(name, named.about)

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(service, request, ChatRequest, ChatForm, "chatcmpl")

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        return await _answer(service, request, CompletionRequest, CompletionForm, "cmpl")

    return router


async def _answer(
    service: Service,
    request: Request,
    kind: type[ChatRequest] | type[CompletionRequest],
    form_of: type[Form],
    prefix: str,
) -> Response:
    asked = read(kind, await received(service, request))
    named, prompts = await asyncio.to_thread(service.read, asked)
    asks = service.asks(asked, named, prompts)
    form = form_of(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), named.name, named.about)
    answer = _Answer(service, named, asks, asked, form)
    service.scheduler(named).submit(asks)
    if asked.stream:
        service.metrics.requests.labels("200").inc()
        return _Stream(answer.stream(), lambda: service.scheduler(named).leave(asks))
    try:
        whole = await _unless_gone(request, answer.whole())
    finally:
        service.scheduler(named).leave(asks)
    service.metrics.requests.labels("200" if whole else str(GONE)).inc()
    return JSONResponse(whole)


class _Stream(EventSourceResponse):
    """Leaves when it ends, however it does: whoever goes away before the first piece never starts the iterator."""

    def __init__(self, pieces: AsyncIterator[bytes], leave: Callable[[], object]) -> None:
        super().__init__(pieces)
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()


class _Answer:
    """What is sent for a request's asks, whole or in pieces."""

    def __init__(
        self, service: Service, named: Named, asks: Sequence[Ask], asked: ChatRequest | CompletionRequest, form: Form
    ) -> None:
        self.service, self.named, self.asks, self.asked, self.form = service, named, asks, asked, form
        self.written = 0

    async def whole(self) -> dict[str, Any]:
        async def choice(index: int, ask: Ask) -> dict[str, Any]:
            parts = [piece async for piece in self._pieces(ask)]
            told = [each for part in parts for each in part.told]
            text = "".join(part.text for part in parts)
            return self.form.choice(index, text, self._told(told), parts[-1].finish)

        choices = await asyncio.gather(*(choice(index, ask) for index, ask in enumerate(self.asks)))
        return self.form.whole(choices, self._usage())

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            opened = [self.form.opening(index) for index in range(len(self.asks))]
            yield _event(self.form.piece(opened, sipo=self.form.about))
            async with aclosing(_merged([self._pieces(ask) for ask in self.asks])) as merged:
                async for news in merged:
                    if news is None:
                        yield KEEPALIVE_COMMENT
                        continue
                    index, piece = news
                    part = self.form.part(index, piece.text, self._told(piece.told), piece.finish)
                    yield _event(self.form.piece([part]))
            if self.asked.stream_options and self.asked.stream_options.include_usage:
                yield _event(self.form.piece([], usage=self._usage()))
            yield format_sse_event(data_str="[DONE]")
        except ApiError as error:
            yield _event(error.body)

    async def _pieces(self, ask: Ask) -> AsyncIterator[Piece]:
        codec, scheduler = self.service.codec(self.named), self.service.scheduler(self.named)
        async for piece in pieces(ask, codec, self.asked.stops, lambda: scheduler.leave([ask])):
            self.written += piece.count
            yield piece

    def _told(self, told: Sequence[Any]) -> Sequence[Any] | None:
        return None if self.asked.likeliest is None else told

    def _usage(self) -> dict[str, int]:
        """A prompt counts once, however many choices it has."""
        every = self.asked.n or 1
        return usage(sum(len(ask.prompt) for ask in self.asks[::every]), self.written)


async def _merged(sources: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T] | None]:
    """What comes from any of them, with its number; None where nothing has come for a while."""
    waiting = {asyncio.ensure_future(_next(source)): index for index, source in enumerate(sources)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=QUIET, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                if (found := task.result()) is not None:
                    waiting[asyncio.ensure_future(_next(sources[index]))] = index
                    yield index, found
    finally:
        for task in waiting:
            task.cancel()


async def _next(source: AsyncIterator[T]) -> T | None:
    return await anext(source, None)


async def received(service: Service, request: Request) -> bytes:
    """The request's body. Raises ApiError for one that is too long, too slow, or never whole."""
    try:
        async with asyncio.timeout(service.limits.seconds):
            return await _body(request, service.limits.body)
    except TimeoutError:
        raise ApiError(408, "the request has not come whole in time") from None
    except ClientDisconnect:  # nobody hears it; the metrics count it
        raise ApiError(GONE, "the client went away before the request had come whole") from None


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"the body has more than {most} bytes")
    return bytes(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work is cancelled, once the client is gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(body: Any) -> bytes:
    return format_sse_event(data_str=json.dumps(body, ensure_ascii=False))
