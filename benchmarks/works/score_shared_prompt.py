"""Eight candidates to one long prompt in one row, against a row with its own prompt for each."""

from benchmarks import floors
from benchmarks.agreement import close
from benchmarks.bench import Bench
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import table
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.weights import corners

CANDIDATES = 8
PROMPT = 400
"""Tokens; no longer than a quarter of the model's context."""


def run(bench: Bench) -> list[Record]:
    settings = bench.settings
    length = min(PROMPT, bench.backbone.context // 4, PROMPT if settings.random_weights != "tiny" else 40)
    [group] = bench.groups(1, CANDIDATES, settings.new_tokens, prompt_tokens=length)
    point = corners(settings.n)[0]

    def shared() -> list[float]:
        known = table(bench, bench.adapters, [group], {"policy": point})
        return [float(value) for value in known.of(group, ["policy"])[:, 0]]

    def apart() -> list[float]:
        with bench.bank.mounted(bench.adapters):
            rows = score_rows(bench.bank, [(Group(group.prompt, (y,)), point) for y in group.responses])
        return [value for row in rows for value in row]

    lengths = [len(y) for y in group.responses]

    def agreement(_: str, ours: list[float], theirs: list[float]) -> Agreement:
        return close(ours, theirs, lengths, bench.exact)

    routes = [
        Route(OURS, lambda _: shared(), holds=(bench.model,)),
        Route("own-prompt", lambda _: apart(), holds=(bench.model,)),
    ]
    need = floors.scoring(bench.shape, [group], 1)
    told = {"candidates": CANDIDATES, "prompt_length": length}
    return bench.compare("score-shared-prompt", routes, sum(lengths), agreement, need, **told)
