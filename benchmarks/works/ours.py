"""Our own route, as the stages call it."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.bench import Bench, Tokens
from sipo.bank import Adapter
from sipo.bank.policy import Point
from sipo.decoding import Request, decode
from sipo.disk.journal import Journal
from sipo.engines import Local, Span
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable
from sipo.progress import Progress
from sipo.settings import Decoding, Execution

SCORE_TOKENS = 4096
"""Tokens a forward, as `execution.score_tokens` has it by default."""


def write(
    bench: Bench,
    adapters: Sequence[Adapter],
    requests: Sequence[Request],
    new_tokens: int,
    stops: Collection[int] = (),
    rows: int | None = None,
) -> list[Tokens]:
    """Greedily, to the limit where there are no `stops`; so many rows at once, or all."""
    with bench.bank.mounted(adapters):
        return [each.tokens for each in decode(bench.bank, requests, Decoding(), new_tokens, stops, rows=rows)]


def table(
    bench: Bench, adapters: Sequence[Adapter], groups: Sequence[Group], models: Mapping[str, Point]
) -> LogprobTable:
    """A fresh table of every response under every model, with the journal that a stage keeps."""
    known = LogprobTable()
    engine = Local(Execution(score_tokens=SCORE_TOKENS), bench.bank)
    span = Span(bench.backbone.settings, tuple(adapters))
    with tempfile.TemporaryDirectory() as folder:
        known.fill(engine, span, groups, models, Journal(Path(folder), "score", Progress(quiet=True)))
    return known
