"""`sipo play`: a page in the browser on which a run's knob is turned."""

import os
import sys
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sipo.cli.arguments import Json
from sipo.cli.serve import ApiKeys, Host, Port, answer_until_stopped, need, opened
from sipo.progress import say

if TYPE_CHECKING:
    from sipo.serve.naming import Served

EVERYWHERE = {"http://0.0.0.0": "http://127.0.0.1", "http://[::]": "http://[::1]"}
"""Where a server that listens everywhere is reached from here."""


def play(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Folders, or NAME=RUN.  [default: the policies that come with sipo]"),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_keys: ApiKeys = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open none; the address is printed anyhow.")] = False,
    as_json: Json = False,
) -> None:
    """Open a page that turns the knob of runs in the browser. Answers at several weights stand side by side.

    Serves OpenAI's API, too.
    """
    need("play")
    from sipo.engines.fitting import rows_asked
    from sipo.hush import hush
    from sipo.play.routes import pages
    from sipo.serve.keys import Keys
    from sipo.serve.server import Server
    from sipo.serve.service import Limits, Service

    hush()
    keys = Keys.found(os.environ, api_keys)
    served, asked = _of(runs or [])
    service = Service(served, Limits(max(rows_asked(each.run.config.execution) for each in served)))

    def show(address: str) -> dict[str, str]:
        for everywhere, here in EVERYWHERE.items():
            address = address.replace(f"{everywhere}:", f"{here}:")
        page = f"{address}/"
        say(f"play at {page} in a browser; Ctrl-C ends it")
        if not (no_browser or as_json):
            sys.stdout.flush()
            open_browser(page)
        return {"page": page}

    server = Server(service, keys, host, port, pages=pages(service, keys, asked))
    answer_until_stopped(server, len(keys), as_json, show)


def _of(runs: Sequence[str]) -> "tuple[list[Served], str | None]":
    """What is played with, and the prompt to begin with: of the demo, its first; of a run, None, one of its own."""
    from sipo.serve.naming import Served, named_runs

    if runs:
        return opened(named_runs(runs)), None
    from sipo.cli.demo import PROMPTS
    from sipo.demo.shipped import Shipped

    return [Served.of("demo", Shipped())], PROMPTS[0]


def open_browser(page: str) -> bool:
    """Open it where there is a browser with windows; one for terminals would take this one."""
    windows = sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    try:
        return windows and webbrowser.open(page)
    except (webbrowser.Error, OSError):
        return False
