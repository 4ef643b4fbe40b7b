"""Stage score: every candidate and both originals under all that the filter may judge by (SIPO, Eq. 6).

That is the policies, and where the rule asks for them the soups at weights between the objectives. What the policies
say is also what the realignment takes as its references. Writes `logprobs.parquet`.
"""

from collections.abc import Sequence
from pathlib import Path

from sipo.bank import Policy
from sipo.disk.journal import Journal
from sipo.filters.contest import contests
from sipo.filters.registry import find
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points, soup_points
from sipo.records import Refinement, Sample
from sipo.stages.sample import worked_rows
from sipo.task import Task
from sipo.weights import Weight


def score(
    task: Task,
    policies: list[Policy],
    samples: list[Sample],
    known: LogprobTable,
    folder: Path,
    *,
    refinements: Sequence[Refinement] = (),
    soups: Sequence[Weight] | None = None,
) -> LogprobTable:
    """What earlier stages scored, `known`, and what was missing, under the policies and the `soups` at these weights,
    None being those that the rule asks; validation rows under the policies too, which tell how far they are to be
    trusted.
    """
    rows = worked_rows(task)
    found = contests(rows, {row.id: task.group(row) for row in rows}, samples, refinements)
    models = {REFERENCE: (0.0,) * len(task.objectives), **policy_points(task.objectives)}
    models |= soup_points(find(task.config.filter.rule).judging_soups(task.config) if soups is None else soups)
    plan = [
        ("candidates", [contest.group for contest in found], models),
        ("validation", [task.group(row) for row in task.splits.validation], policy_points(task.objectives)),
    ]
    with task.engine() as engine:
        for name, groups, points in plan:
            known.fill(engine, task.span(policies), groups, points, Journal(folder, name, task.progress))
    known.write(folder / "logprobs.parquet")
    return known
