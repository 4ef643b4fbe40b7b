"""The page and what it asks beside OpenAI's: what the run is, and what an answer is worth."""

from typing import Any

from fastapi import APIRouter, Request, Response

from sipo.play.about import about
from sipo.play.page import HEADERS, PAGE, page_files
from sipo.play.worth import WorthRequest, worth
from sipo.serve.app import received, with_a_key
from sipo.serve.keys import Keys
from sipo.serve.naming import Served
from sipo.serve.service import Service
from sipo.serve.wire import ApiError, read


def pages(service: Service, keys: Keys, asked: str | None = None) -> list[APIRouter]:
    """Of all the service's runs; the first is the one that is shown unless another is named. Whoever comes sees the
    page, which holds nothing of a run; the rest is for those with a key.
    """
    return [_files(), _questions(service, keys, asked)]


def _files() -> APIRouter:
    router, found = APIRouter(), page_files()

    @router.get("/")
    def page() -> Response:
        return file(PAGE)

    @router.get("/play/{name}")
    def file(name: str) -> Response:
        if name not in found:
            raise ApiError(404, f"there is no /play/{name}")
        return Response(found[name].content, media_type=found[name].kind, headers=HEADERS)

    return router


def _questions(service: Service, keys: Keys, asked: str | None) -> APIRouter:
    router = APIRouter(prefix="/sipo", dependencies=[with_a_key(keys)])

    def named(name: str | None) -> Served:
        """Raises ApiError."""
        if name is None:
            return next(iter(service.runs.values()))
        if name not in service.runs:
            raise ApiError(404, f"the run `{name}` is not served here; there are {', '.join(service.runs)}")
        return service.runs[name]

    @router.get("/run")
    def told(name: str | None = None) -> dict[str, Any]:
        return about(named(name), service.runs, service.limits, asked)

    @router.post("/worth")
    async def answer(request: Request) -> dict[str, Any]:
        body = read(WorthRequest, await received(service, request))
        served = named(body.run)
        return await worth(served, service.schedulers[served.name], body)

    return router
