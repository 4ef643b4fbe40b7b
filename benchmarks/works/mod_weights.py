"""MOD at four weights a prompt: a prompt is computed once a policy, whatever the number of weights."""

from benchmarks import floors
from benchmarks.agreement import same_texts
from benchmarks.alternatives import plain
from benchmarks.bench import Bench, Tokens
from benchmarks.measure import Route
from benchmarks.records import NOTHING, OURS, Agreement, Record
from benchmarks.works.ours import write
from sipo.decoding import Request, at_mod
from sipo.weights import corners

WEIGHTS = 4
LONGER = 4
"""Prompts are so many times as long as elsewhere: long prompts are where sharing them matters."""


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    n, new, length = settings.n, settings.new_tokens, LONGER * settings.prompt_tokens
    count = max(1, settings.batch // WEIGHTS)
    prompts, weights = bench.prompts(count, length), bench.weights(WEIGHTS)
    requests = [Request(prompt, at_mod(weight)) for prompt in prompts for weight in weights]
    rows = n * len(requests)
    everywhere = bench.prompts(rows, length)

    def one_weight_at_a_time() -> list[Tokens]:
        by_weight = [write(bench, bench.adapters, requests[at::WEIGHTS], new) for at in range(WEIGHTS)]
        return [text for texts in zip(*by_weight, strict=True) for text in texts]

    def agreement(name: str, ours: list[Tokens], theirs: list[Tokens]) -> Agreement:
        if name == "plain":
            return Agreement(None, {"tokens": sum(map(len, theirs))})
        with bench.bank.mounted(bench.adapters):
            return same_texts(bench.bank, requests, ours, theirs, bench.exact)

    routes = [
        Route(OURS, lambda _: write(bench, bench.adapters, requests, new), holds=(bench.model,)),
        Route("plain", lambda _: plain.generate(bench.model, everywhere, new), holds=(bench.model,)),
        Route("one-weight-at-a-time", lambda _: one_weight_at_a_time(), holds=(bench.model,)),
    ]
    told = {"weights": WEIGHTS, "prompts": count, "prompt_length": length, "rows": rows}
    need = floors.decoding(bench.shape, [(length, new)] * rows, prefilled=[length] * (n * count))
    records = bench.compare("mod-weights", routes, len(requests) * new, agreement, need, **told)
    return [*records, _prompts_computed(bench, requests, records[0])]


def _prompts_computed(bench: Bench, requests: list[Request], like: Record) -> Record:
    """A count, not a time: rows of the first forward, against one a (request, policy)."""
    rows: list[int] = []

    def count(_: object, __: object, inputs: dict[str, object]) -> None:
        rows.append(len(inputs["input_ids"]))  # type: ignore[arg-type]

    hook = bench.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        write(bench, bench.adapters, requests, 1)
    finally:
        hook.remove()
    ours, each = rows[-1], len(requests) * len(corners(bench.settings.n))
    settings = {**like.settings, "prefilled_rows": {"ours": ours, "alternative": each}, "measures": "rows, not time"}
    return Record(
        "mod-weights",
        "prompt-rows-unshared",
        each / ours,
        None,
        None,
        settings,
        like.hardware,
        NOTHING,
        NOTHING,
        NOTHING,
    )
