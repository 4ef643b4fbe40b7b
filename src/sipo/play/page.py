"""The page's files: all of them come with sipo, and its own policy forbids it to load anything from anywhere else."""

from importlib.resources import files
from typing import NamedTuple

PAGE = "page.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
OF_THE_REPORT = ("page.css", "chart.css", "texts.css")
"""The page looks as the report does."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # another version of sipo may serve at the same address tomorrow
}


class File(NamedTuple):
    content: bytes
    kind: str
    """As `Content-Type` has it."""


def page_files() -> dict[str, File]:
    """By name; nothing else can be asked for."""
    own = [each for each in (files("sipo.play") / "page").iterdir() if each.is_file()]
    shared = [files("sipo.report") / "page" / name for name in OF_THE_REPORT]
    return {
        each.name: File(each.read_bytes(), KINDS[ending])
        for each in (*own, *shared)
        if (ending := each.name[each.name.rfind(".") :]) in KINDS
    }
