"""Stage filter: choose y_c among the candidates to each row, or none (SIPO, Eq. 6 and 7).

`filter.rule` names what decides, a file of `sipo.filters`. The model is asked again for embeddings alone. Writes
`candidates.jsonl` (every candidate, its scores, why it fell) and `filter.json` (how sure the choice is).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.disk.tables import write_json, write_records
from sipo.filters.contest import CHOSEN, ORIGINALS, Contest, Decision, contests
from sipo.filters.evidence import by_objective, own_accuracy
from sipo.filters.registry import find
from sipo.filters.spec import Outcome
from sipo.logprobs.table import LogprobTable, policy
from sipo.records import Candidate, Refinement, Sample
from sipo.records import known as or_none
from sipo.stages.sample import worked_rows
from sipo.task import Task


def ways_out(stayed: Sequence[str]) -> str:
    """Where nothing is chosen, and the policies of `stayed` stayed the reference."""
    sampled = "sample more (sample.per_weight, sample.prompts)"
    if not stayed:
        return f"{sampled} or align longer"
    return f"{sampled}, align longer, or take align.checkpoint: last where policies stayed the reference"


def filter(
    task: Task,
    samples: list[Sample],
    known: LogprobTable,
    folder: Path,
    *,
    refinements: Sequence[Refinement] = (),
    **needed: Any,
) -> list[Candidate]:
    """Every candidate with its scores and fate. `known` is what `score` returned, `needed` what the rule needs besides:
    `calibrated` has what `calibrate` or `align` returned as `labelled`.
    """
    rows = worked_rows(task)
    found = contests(rows, {row.id: task.group(row) for row in rows}, samples, refinements)
    outcome = find(task.config.filter.rule).decide(task, found, known, **needed)
    candidates = [
        each for contest, decision in zip(found, outcome.decisions, strict=True) for each in _records(contest, decision)
    ]
    write_records(folder / "candidates.jsonl", candidates)
    summary = _summary(task, known, candidates, outcome)
    summary["no_opinion"] = _no_opinion(task, found, known)
    if summary["no_opinion"]:
        names = " and ".join(summary["no_opinion"])
        task.progress.say(f"warning: the policy of {names} stayed the reference and has no opinion; the others judge")
    if not summary["chosen"]:
        task.progress.say(
            "warning: the filter chose nothing, so realignment leaves the policies as they are; "
            f"{ways_out(summary['no_opinion'])}"
        )
    write_json(folder / "filter.json", {"rows": len(rows), **summary})
    sources = Counter(each.source for each in candidates if each.fate == CHOSEN)
    expected = summary["estimated_precision"]
    task.progress.table(
        f"chosen responses, by the rule `{task.config.filter.rule}`",
        ["rows", "candidates", "rows with one", "samples chosen", "rewrites chosen", "estimated precision"],
        [
            [
                len(rows),
                len(candidates),
                summary["chosen"],
                sources["sample"],
                sources["rewrite"],
                "-" if expected is None else expected,
            ]
        ],
    )
    return candidates


def chosen_responses(candidates: list[Candidate]) -> dict[str, tuple[int, ...]]:
    """y_c as token ids, by row id."""
    return {each.row: each.tokens for each in candidates if each.fate == CHOSEN}


def _records(contest: Contest, decision: Decision) -> list[Candidate]:
    rewards = [dict(zip(decision.judges, map(or_none, each), strict=True)) for each in decision.rewards.tolist()]
    originals = {judge: [each[judge] for each in rewards[:ORIGINALS]] for judge in decision.judges}
    means = decision.rewards[ORIGINALS:].mean(axis=1).tolist()
    return [
        Candidate(
            contest.row.id, contest.row.key, each.source, each.weights, each.index, each.response,
            each.tokens, len(each.tokens), rewards[ORIGINALS + at],
            originals, or_none(means[at]), decision.fates[at],
            None if decision.estimates is None else or_none(float(decision.estimates[at])), list(decision.reasons[at]),
        )
        for at, each in enumerate(contest.contenders)
    ]  # fmt: skip


def _summary(task: Task, known: LogprobTable, candidates: list[Candidate], outcome: Outcome) -> dict[str, Any]:
    """How the choice ended, and how far to trust it: accuracies on pairs that the judges have not seen, and the
    mean estimate among the chosen (the precision to expect) and among all candidates (that of a blind choice).
    """
    if outcome.judge is not None:
        accuracy, held_out = outcome.judge["accuracy"], "other folds"
    elif task.splits.validation:
        accuracy = by_objective(task, own_accuracy(task, task.splits.validation, known))
        held_out = "validation rows"
    else:
        accuracy, held_out = None, None
    chosen = [each for each in candidates if each.fate == CHOSEN]
    return {
        "rule": task.config.filter.rule,
        "candidates": len(candidates),
        "chosen": len(chosen),
        "accuracy": accuracy,
        "held_out": held_out,
        "estimated_precision": _mean_estimate(chosen),
        "estimated_share_of_all": _mean_estimate(candidates),
        "judge": outcome.judge,
        "margins": outcome.margins,
    }


def _no_opinion(task: Task, found: list[Contest], known: LogprobTable) -> list[str]:
    """The objectives whose policy says of every response what the reference says."""
    ratios = [known.logratios(each.group, [policy(name) for name in task.objectives]) for each in found]
    return [name for i, name in enumerate(task.objectives) if not any(each[:, i].any() for each in ratios)]


def _mean_estimate(candidates: list[Candidate]) -> float | None:
    estimates = [each.estimate for each in candidates if each.estimate is not None]
    return float(np.mean(estimates)) if estimates else None
