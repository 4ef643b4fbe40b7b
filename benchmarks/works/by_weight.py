"""LW and MODPO over six weights: after the first run nothing is scored again. Forward passes are counted, not timed.

Counted are those that score references and margins, not a training's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock, patch

import numpy as np

from benchmarks.agreement import close
from benchmarks.bench import Bench
from benchmarks.records import NOTHING, Record
from benchmarks.tasks import small_task
from benchmarks.works.ours import table
from sipo.logprobs.score import score_rows
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points
from sipo.methods.lw import train_lw
from sipo.methods.modpo import train_modpo
from sipo.stages import align
from sipo.weights import is_corner

ROWS = 8
DIVISIONS = 5
"""The paper's six weights."""


@contextmanager
def scoring_forwards() -> Iterator[Mock]:
    """Counts the forwards that fill the table of log-probabilities, as calls."""
    with patch("sipo.engines.batched.score_rows", wraps=score_rows) as counted:
        yield counted


def run(bench: Bench) -> list[Record]:
    with small_task(bench, ROWS, weights={"divisions": DIVISIONS}) as (task, folder):
        inner = [weight for weight in task.weights if not is_corner(weight)]
        with scoring_forwards() as references:
            policies = align(task, folder / "align")
        known = LogprobTable().read(folder / "align/logprobs.parquet")
        with scoring_forwards() as margins:
            train_modpo(task, policies, known, folder / "modpo")
        with scoring_forwards() as afterwards:
            train_lw(task, known, folder / "lw")
            train_modpo(task, policies, known, folder / "modpo-again")

        groups = [task.group(row) for row in task.splits.train]
        models = {REFERENCE: (0.0,) * len(policies), **policy_points(task.objectives)}
        again = table(bench, policies, groups, models)
        ours, theirs = (np.concatenate([each.of(group, list(models)).T for group in groups]) for each in (known, again))
        lengths = [len(y) for group in groups for _ in models for y in group.responses]
        judged = close(ours.ravel().tolist(), theirs.ravel().tolist(), lengths, bench.exact)
    # An LW run of its own scores the references, a MODPO run the references and the margins.
    first = references.call_count + margins.call_count
    recomputed = len(inner) * references.call_count + len(inner) * first
    counts = {"first_run": first, "after_the_first_run": afterwards.call_count, "scored_in_every_run": recomputed}
    told = bench.told(weights=len(task.weights), rows=ROWS, scoring_forwards=counts, measures="forwards, not time")
    ratio = recomputed / (first + afterwards.call_count)
    return [
        Record(
            "by-weight", "scored-in-every-run", ratio, None, judged.equal, {**told, **judged.detail},
            bench.hardware.as_json(), NOTHING, NOTHING, NOTHING,
        )
    ]  # fmt: skip
