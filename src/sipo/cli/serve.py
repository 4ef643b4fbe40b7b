"""`sipo serve`: finished runs behind an endpoint in OpenAI's form."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sipo.cli.arguments import Json
from sipo.commands import install_extra
from sipo.errors import SipoError
from sipo.progress import answering, say
from sipo.words import quantity

if TYPE_CHECKING:
    from sipo.serve.naming import Served
    from sipo.serve.server import Server

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs, or NAME=RUN.")]
Host = Annotated[str, typer.Option(help="Where it listens; 0.0.0.0 is everywhere.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
ApiKeys = Annotated[Path | None, typer.Option(metavar="FILE", help="Keys, one a line, beside those of SIPO_API_KEYS.")]


def serve(
    runs: Runs,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_keys: ApiKeys = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows in the batch; MOD takes one for each policy.  [default: the run's]")
    ] = None,
    cached: Annotated[int, typer.Option(min=1, help="Tokens in the batch's cache.")] = 65536,
    waiting: Annotated[int, typer.Option(min=0, help="Answers that may wait for room.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = 4096,
    seconds: Annotated[float, typer.Option(min=0.001, help="In which an answer must end, waiting included.")] = 600.0,
    body: Annotated[int, typer.Option(min=1, help="Bytes of a request, at most.")] = 1 << 20,
    origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Web pages from there may ask, too; * is all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve finished runs as OpenAI's API. Each request names its own weights and method."""
    need("serve")
    from sipo.engines.fitting import rows_asked
    from sipo.hush import hush
    from sipo.serve.keys import Keys
    from sipo.serve.naming import named_runs
    from sipo.serve.server import Server
    from sipo.serve.service import Limits, Service

    hush()
    keys = Keys.found(os.environ, api_keys)
    served = opened(named_runs(runs))
    most = rows or max(rows_asked(each.run.config.execution) for each in served)
    service = Service(served, Limits(most, cached, waiting, max_tokens, seconds, body))
    answer_until_stopped(Server(service, keys, host, port, origin or ()), len(keys), as_json)


def need(verb: str) -> None:
    """Raise SipoError where what serves is not installed."""
    if any(find_spec(each) is None for each in ("fastapi", "uvicorn", "prometheus_client")):
        raise SipoError(f"`sipo {verb}` needs packages that are not installed; `{install_extra('serve')}` gets them")


def answer_until_stopped(
    server: "Server", keys: int, as_json: bool, show: Callable[[str], dict[str, str]] | None = None
) -> None:
    """Say what is served and where, and serve it. `show(address)` says what else is there, which goes on the record."""
    service = server.service
    server.listen()
    try:
        service.start()
        with answering(as_json) as record:
            served = list(service.runs.values())
            record |= {"url": f"{server.address}/v1", "models": [name for each in served for name in each.names()]}
            for line in told(served, record["url"], keys):
                say(line)
            record |= show(server.address) if show else {}
        sys.stdout.flush()  # whoever reads it through a pipe waits for the address
        server.run()
    finally:
        service.close()


def opened(paths: Mapping[str, Path]) -> "list[Served]":
    """Raises SipoError for what is no finished run."""
    from sipo.finished.handle import open as open_run
    from sipo.serve.naming import Served

    return [Served.of(name, open_run(path)) for name, path in paths.items()]


def told(served: "Sequence[Served]", url: str, keys: int) -> list[str]:
    """What is served, where, what is not there yet, and what is slower than it might be."""
    lines = []
    for each in served:
        lines.append(f"{each.name}: {', '.join(each.methods)}; weights of {', '.join(each.run.objectives)}")
        lines += [f"{each.name}: {said}" for said in (each.lacking, *each.run.task.bank.routes.said) if said]
    asked = f"{quantity(keys, 'API key')}" if keys else "no API key: whoever reaches it may ask"
    return [*lines, f"serving at {url}, with {asked}"]
