"""MOD for more prompts than a batch holds: through vLLM against through transformers.

Both have as many rows in flight. In 16 bits the kernels round differently, and texts are not judged. Left out, with a
line that says why, where vLLM is missing or cannot do the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.bank import Bank
from sipo.decoding import Request, at_mod
from sipo.engines import Span, opened
from sipo.errors import SipoError
from sipo.models.load import Backbone
from sipo.progress import Progress
from sipo.settings import Decoding, Execution

BATCHES = 4


def run(bench: Bench) -> list[Record]:
    try:
        return _compared(bench)
    except SipoError as error:
        Progress().say(f"mod-engine: left out ({error})")
        return []


def _compared(bench: Bench) -> list[Record]:
    settings = bench.settings
    rows, new = settings.n * settings.batch, settings.new_tokens
    count = BATCHES * settings.batch
    requests = [
        Request(prompt, at_mod(weight))
        for prompt, weight in zip(bench.prompts(count), bench.weights(count), strict=True)
    ]

    def transformers(_: Any) -> list[Tokens]:
        starts = range(0, count, settings.batch)
        return [y for at in starts for y in write(bench, bench.adapters, requests[at : at + settings.batch], new)]

    def agreement(_: str, ours: list[Tokens], theirs: list[Tokens]) -> Agreement:
        with bench.bank.mounted(bench.adapters):
            judged = same_texts(bench.bank, requests, ours, theirs, bench.exact)
        return Agreement(judged.equal if bench.exact else None, judged.detail)

    execution = Execution(engine="vllm", decode_rows=rows)
    with _on_disk(bench) as bank, opened(execution, bank) as engine:
        span = Span(bank.backbone.settings, tuple(bench.adapters))

        def vllm(_: Any) -> list[Tokens]:
            texts = dict(engine.generate(span, requests, Decoding(), new, ()))
            return [texts[unit].tokens for unit in range(count)]

        def forget() -> None:
            engine.forget()  # type: ignore[attr-defined] # vLLM's own

        # What a round computed of the prompts is no help to the next.
        routes = [Route(OURS, vllm, prepare=forget), Route("transformers", transformers, holds=(bench.model,))]
        written = [(settings.prompt_tokens, new)] * (settings.n * count)
        need = floors.decoding(bench.shape, written, batches=BATCHES)
        return bench.compare("mod-engine", routes, count * new, agreement, need, rows=rows, prompts=count)


@contextmanager
def _on_disk(bench: Bench) -> Iterator[Bank]:
    """A bank over the same model, whose source is a folder that vLLM can load: random weights are written to one."""
    backbone = bench.backbone
    if bench.settings.random_weights is None:
        yield Bank(backbone)
        return
    with TemporaryDirectory(prefix="bench-") as name:
        backbone.model.save_pretrained(name)
        yield Bank(Backbone(backbone.model, backbone.tokenizer, str(Path(name))))
