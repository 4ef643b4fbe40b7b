"""Answering many requests in batches that fit the machine, each batch a unit that survives a crash."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sipo.bank import Bank
from sipo.config import Decoding
from sipo.decoding.decode import Generated, Request, decode
from sipo.disk.journal import resumable
from sipo.progress import Progress

if TYPE_CHECKING:  # the engines are built on this package
    from sipo.engines.vllm import Vllm


def answer(
    bank: Bank,
    requests: Sequence[Request],
    decoding: Decoding,
    max_new_tokens: int,
    stops: Collection[int],
    *,
    rows: int,
    folder: Path,
    label: str,
    progress: Progress,
    engine: "Vllm | None" = None,
) -> list[Generated]:
    """One response a request, in order; equal requests are answered once. `rows` bounds a batch's rows.

    `engine`: from `sipo.engines.opened`; None is transformers.
    """
    distinct = sorted(
        dict.fromkeys(requests), key=lambda each: (each.mixture.divergence, len(each.prompt), each.prompt)
    )
    if engine:
        engine.expect(bank, distinct, max_new_tokens)
        rows *= engine.batches
    plan: list[list[Request]] = []
    room = 0
    for request in distinct:
        needed = len(request.mixture.points)
        if not plan or needed > room or plan[-1][0].mixture.divergence != request.mixture.divergence:
            plan.append([])
            room = rows
        plan[-1].append(request)
        room -= needed

    def run(batch: list[Request]) -> list[tuple[tuple[int, ...], bool]]:
        generated = (engine.decode if engine else decode)(bank, batch, decoding, max_new_tokens, stops)
        return [(each.tokens, each.finished) for each in generated]

    results = resumable(folder, label, plan, run, progress)
    answers = {
        request: Generated(tuple(tokens), finished)
        for batch, result in zip(plan, results, strict=True)
        for request, (tokens, finished) in zip(batch, result, strict=True)
    }
    return [answers[request] for request in requests]
