"""LW and MODPO over six weights: after the first run nothing is scored again. Forward passes are counted, not timed.

A training's own forwards carry a gradient; those that score references and margins do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.agreement import close
from benchmarks.bench import Bench
from benchmarks.records import NOTHING, Record
from benchmarks.tasks import small_task
from benchmarks.works.ours import table
from sipo.bank import Bank
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points
from sipo.methods.lw import train_lw
from sipo.methods.modpo import train_modpo
from sipo.stages import align
from sipo.weights import is_corner

ROWS = 8
DIVISIONS = 5
"""The paper's six weights."""


@contextmanager
def scoring_forwards(bank: Bank) -> Iterator[list[int]]:
    """Counts the forwards without gradient: one entry, its rows, for each."""
    counted: list[int] = []

    def count(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if not torch.is_grad_enabled():
            counted.append(len(inputs["input_ids"]))

    hook = bank.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()


def run(bench: Bench) -> list[Record]:
    with small_task(bench, ROWS, weights={"divisions": DIVISIONS}) as (task, folder):
        inner = [weight for weight in task.weights if not is_corner(weight)]
        with scoring_forwards(bench.bank) as references:
            policies = align(task, folder / "align")
        known = LogprobTable().read(folder / "align/logprobs.parquet")
        with scoring_forwards(bench.bank) as margins:
            train_modpo(task, policies, known, folder / "modpo")
        with scoring_forwards(bench.bank) as afterwards:
            train_lw(task, known, folder / "lw")
            train_modpo(task, policies, known, folder / "modpo-again")

        groups = [task.group(row) for row in task.splits.train]
        models = {REFERENCE: (0.0,) * len(policies), **policy_points(task.objectives)}
        again = table(bench, policies, groups, models)
        ours, theirs = (np.concatenate([each.of(group, list(models)).T for group in groups]) for each in (known, again))
        lengths = [len(y) for group in groups for _ in models for y in group.responses]
        judged = close(ours.ravel().tolist(), theirs.ravel().tolist(), lengths, bench.exact)
    # An LW run of its own scores the references, a MODPO run the references and the margins.
    first = len(references) + len(margins)
    recomputed = len(inner) * len(references) + len(inner) * first
    counts = {"first_run": first, "after_the_first_run": len(afterwards), "scored_in_every_run": recomputed}
    told = bench.told(weights=len(task.weights), rows=ROWS, scoring_forwards=counts, measures="forwards, not time")
    ratio = recomputed / (first + len(afterwards))
    return [
        Record(
            "by-weight", "scored-in-every-run", ratio, None, judged.equal, {**told, **judged.detail},
            bench.hardware.as_json(), NOTHING, NOTHING, NOTHING,
        )
    ]  # fmt: skip
