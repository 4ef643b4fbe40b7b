"""Many long candidates to one short prompt: rows of as many as pay, against all in one row and one a row."""

from benchmarks import floors
from benchmarks.agreement import close
from benchmarks.bench import Bench
from benchmarks.measure import Route
from benchmarks.records import OURS, Agreement, Record
from benchmarks.works.ours import SCORE_TOKENS, table
from sipo.logprobs.packing import Group, batches, worth_sharing
from sipo.logprobs.score import score_rows
from sipo.weights import corners

CANDIDATES = 14
"""Two originals, six samples and their rewrites."""
PROMPT, RESPONSE = 75, 160
"""Tokens; together no longer than a quarter of the model's context."""


def run(bench: Bench) -> list[Record]:
    scale = min(1.0, bench.backbone.context / 4 / (PROMPT + RESPONSE))
    prompt, response = int(PROMPT * scale), int(RESPONSE * scale)
    groups = bench.groups(2, CANDIDATES, response, prompt_tokens=prompt)
    point = corners(bench.settings.n)[0]
    alone = [Group(group.prompt, (y,)) for group in groups for y in group.responses]

    def ours() -> list[float]:
        known = table(bench, bench.adapters, groups, {"policy": point})
        return [float(known.of(each, ["policy"])[0, 0]) for each in alone]

    def scored(rows: list[Group]) -> list[float]:
        values = {}
        with bench.bank.mounted(bench.adapters):
            for indices in batches([row.tokens for row in rows], SCORE_TOKENS):
                found = score_rows(bench.bank, [(rows[i], point) for i in indices])
                for i, each in zip(indices, found, strict=True):
                    values |= {(rows[i].prompt, y): v for y, v in zip(rows[i].responses, each, strict=True)}
        return [values[each.prompt, each.responses[0]] for each in alone]

    lengths = [len(y) for group in groups for y in group.responses]

    def agreement(_: str, ours: list[float], theirs: list[float]) -> Agreement:
        return close(ours, theirs, lengths, bench.exact)

    routes = [
        Route(OURS, lambda _: ours(), holds=(bench.model,)),
        Route("one-row", lambda _: scored(groups), holds=(bench.model,)),
        Route("own-prompt", lambda _: scored(alone), holds=(bench.model,)),
    ]
    rows = [row for group in groups for row in worth_sharing(group, bench.bank.knee)]
    need = floors.scoring(bench.shape, rows, len(list(batches([row.tokens for row in rows], SCORE_TOKENS))))
    told = {"candidates": CANDIDATES, "prompt_length": prompt, "response_length": response, "rows": len(rows)}
    return bench.compare("score-rows", routes, sum(lengths), agreement, need, **told)
