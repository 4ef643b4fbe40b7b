"""The page and what it asks beside OpenAI's: what the run is, and what an answer is worth."""

from typing import Any

from fastapi import APIRouter, Request, Response

from sipo.play.about import about
from sipo.play.page import HEADERS, PAGE, page_files
from sipo.play.worth import WorthRequest, worth
from sipo.serve.app import received, with_a_key
from sipo.serve.keys import Keys
from sipo.serve.service import Service
from sipo.serve.wire import ApiError, read


def pages(service: Service, keys: Keys, run: str, asked: str | None = None) -> list[APIRouter]:
    """Of one of the service's runs. Whoever comes sees the page, which holds nothing of the run; the rest is for those
    with a key.
    """
    return [_files(), _questions(service, keys, run, asked)]


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


def _questions(service: Service, keys: Keys, run: str, asked: str | None) -> APIRouter:
    router = APIRouter(prefix="/sipo", dependencies=[with_a_key(keys)])
    served = service.runs[run]

    @router.get("/run")
    def told() -> dict[str, Any]:
        return about(served, service.limits, asked)

    @router.post("/worth")
    async def answer(request: Request) -> dict[str, Any]:
        return await worth(served, service.schedulers[run], read(WorthRequest, await received(service, request)))

    return router
