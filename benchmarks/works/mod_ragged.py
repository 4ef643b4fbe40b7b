"""MOD where responses end at very different lengths: the next prompts take the places of those that have ended, against
batches that shrink, and batches that go on to their longest.

So that both routes see the same endings whatever the rounding, every response is made to end at one position of
the sequence, and prompts are the longer the shorter their response: lengths are then those of a constant chance to
end, drawn evenly, a few of them several times the mean, in any order.
"""

import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod, running

MANY, QUICK_MANY = 8, 3
"""Times the prompts in flight."""
LONGEST = 4
"""Times the mean length."""


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    mean, limit = settings.new_tokens, LONGEST * settings.new_tokens
    count = (QUICK_MANY if settings.quick else MANY) * settings.batch
    shares = [(i + 0.5) / count for i in range(count)]
    lengths = [min(limit, math.ceil(-mean * math.log(1 - share))) for share in shares]
    random.Random(settings.seed).shuffle(lengths)
    last = settings.prompt_tokens + limit
    drawn = bench.prompts(count, last)
    requests = [
        Request(prompt[: last - length], at_mod(weight))
        for prompt, length, weight in zip(drawn, lengths, bench.weights(count), strict=True)
    ]
    end = bench.model.config.get_text_config().vocab_size - 1

    def ours(_: Any) -> list[Tokens]:
        with ending(bench, last - 2, end):
            return write(bench, bench.adapters, requests, limit, (end,), settings.batch * settings.n)

    def leaving(_: Any) -> list[Tokens]:
        with patch.object(sys.modules["sipo.decoding.decode"], "REFILL_BELOW", 0.0):
            return ours(_)

    def fixed(_: Any) -> list[Tokens]:
        with patch.object(running, "COMPACT_BELOW", 0.0):
            return leaving(_)

    def agreement(_: str, mine: list[Tokens], theirs: list[Tokens]) -> Agreement:
        free = [[text[:-1] for text in texts] for texts in (mine, theirs)]
        written = [(request, a, b) for request, a, b in zip(requests, *free, strict=True) if a and b]
        asked, a, b = (list(column) for column in zip(*written, strict=True))
        with bench.bank.mounted(bench.adapters):
            judged = same_texts(bench.bank, asked, a, b, bench.exact)
        as_planned = [len(text) for text in mine] == [len(text) for text in theirs] == lengths
        return Agreement(judged.equal and as_planned, judged.detail)

    by_name = {OURS: ours, "leaving": leaving, "fixed-batch": fixed}
    routes = [Route(name, each, holds=(bench.model,)) for name, each in by_name.items()]
    batches = max(1, sum(lengths) // (settings.batch * max(lengths)))
    need = floors.decoding(bench.shape, [(last - length, length) for length in lengths] * settings.n, batches=batches)
    told = {"prompts": count, "mean_length": sum(lengths) / len(lengths), "longest": max(lengths)}
    return bench.compare("mod-ragged", routes, sum(lengths), agreement, need, **told)


@contextmanager
def ending(bench: Bench, position: int, end: int) -> Iterator[None]:
    """Within the block the model says `end` behind that position and never before it."""
    at: list[Tensor] = []

    def remember(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        ids, positions = inputs["input_ids"], inputs.get("position_ids")
        if positions is None:  # all rows are of one length
            positions = ids * 0 + inputs["past_key_values"].get_seq_length() + ids.shape[1] - 1
        at[:] = [positions[:, -1]]

    def steer(_: Any, __: Any, logits: Tensor) -> Tensor:
        if len(logits) == len(at[0]):
            logits[:, end] = (at[0] >= position) * 2e4 - 1e4
        return logits

    hooks = [
        bench.model.base_model.register_forward_pre_hook(remember, with_kwargs=True),
        bench.bank.head.layer.register_forward_hook(steer),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
