"""The works, by name, in the order that they run."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.records import Record
from benchmarks.works import (
    by_weight,
    dpo,
    engine,
    growth,
    memory,
    mod_decode,
    mod_n,
    mod_ragged,
    mod_weights,
    packed,
    pipeline,
    score,
    score_rows,
    score_shared_prompt,
    serve,
    serve_http,
    upper,
)

WORKS: dict[str, Callable[[Bench], list[Record]]] = {
    "mod-decode": mod_decode.run,
    "mod-ragged": mod_ragged.run,
    "mod-weights": mod_weights.run,
    "mod-n": mod_n.run,
    "mod-engine": engine.run,
    "packed": packed.together,
    "packed-alone": packed.alone,
    "score": score.run,
    "score-rows": score_rows.run,
    "score-shared-prompt": score_shared_prompt.run,
    "dpo": dpo.run,
    "dpo-together": dpo.together,
    "dpo-together-few": dpo.together_few,
    "upper-decode": upper.decoding,
    "upper-dpo": upper.dpo,
    "by-weight": by_weight.run,
    "growth": growth.run,
    "memory": memory.run,
    "pipeline": pipeline.run,
    # The last: a model that more threads have computed with than there are cores has slower steps from then on.
    "serve-http": serve_http.run,
    "serve-alone": serve.alone,
    "serve": serve.run,
}
NOT_QUICK = (
    "packed",
    "serve",  # serve-http has the same, and the rest
    "score-rows",
    "dpo-together",
    "dpo-together-few",
    "upper-decode",
    "upper-dpo",
    "pipeline",
)
"""Left out of --quick unless named."""
