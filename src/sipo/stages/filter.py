"""Stage filter: choose y_c among the candidates to each row, or none (SIPO, Eq. 6 and 7).

The paper's rule takes what is better than both originals for every judge; `filter.rule` names others. The model is
not asked again. Writes `candidates.jsonl` (every candidate, its scores, why it fell) and `filter.json` (how sure the
choice is).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sipo.decoding import seed_of
from sipo.disk.tables import write_json, write_records
from sipo.filters.calibrated import decide_calibrated, soft_dominance
from sipo.filters.chance import decide_by_chance
from sipo.filters.contest import CHOSEN, ORIGINALS, Array, Contest, Decision, contests
from sipo.filters.evidence import by_objective, features_of, fit_on_held_out, labelled_pairs, own_accuracy
from sipo.filters.judge import Judge, fit_own_scale
from sipo.filters.paper import decide, judge_rewards, outspoken
from sipo.filters.true import decide_by_rewards
from sipo.logprobs.table import LogprobTable, policy
from sipo.records import Candidate, Refinement, Sample
from sipo.records import known as or_none
from sipo.rewards import Item, signed_rewards
from sipo.stages.sample import worked_rows
from sipo.stages.score import judging_points
from sipo.task import Task


def filter(
    task: Task,
    samples: list[Sample],
    known: LogprobTable,
    folder: Path,
    *,
    refinements: Sequence[Refinement] = (),
    held_out: LogprobTable | None = None,
) -> list[Candidate]:
    """Every candidate with its scores and fate. `known` is what `score` returned, `held_out` what `calibrate` did,
    which the rule `calibrated` needs.
    """
    rows = worked_rows(task)
    found = contests(rows, {row.id: task.group(row) for row in rows}, samples, refinements)
    judge, calibration = fit_on_held_out(task, held_out) if held_out is not None else (None, None)
    decisions = _decide(task, found, list(judging_points(task)), known, judge)
    candidates = [
        each for contest, decision in zip(found, decisions, strict=True) for each in _records(contest, decision)
    ]
    write_records(folder / "candidates.jsonl", candidates)
    summary = _summary(task, known, candidates, calibration)
    summary["no_opinion"] = _no_opinion(task, found, known)
    if summary["no_opinion"]:
        names = " and ".join(summary["no_opinion"])
        task.progress.say(f"warning: the policy of {names} stayed the reference and has no opinion; the others judge")
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
    return {each.row: tuple(each.tokens) for each in candidates if each.fate == CHOSEN}


def _decide(
    task: Task, found: list[Contest], judges: list[str], known: LogprobTable, judge: Judge | None
) -> list[Decision]:
    settings = task.config.filter
    if settings.rule == "rewards":
        return decide_by_rewards(found, _true_rewards(task, found), task.objectives, settings.pool)
    if judge is not None:
        utilities = _utilities(task, found, known, judge)
        return decide_calibrated(found, utilities, task.objectives, settings.pool, settings.keep)
    rewards = [judge_rewards(known, each.group, judges, settings) for each in found]
    heard = outspoken(judges, rewards)
    judges, rewards = [judges[at] for at in heard], [each[:, heard] for each in rewards]
    if settings.rule == "random":
        kept = [decide(contest, judges, mine, "all") for contest, mine in zip(found, rewards, strict=True)]
        decisions = decide_by_chance(found, kept, settings.pool, seed_of(task.config.seed, "filter"))
    else:
        decisions = [decide(contest, judges, mine, settings.pool) for contest, mine in zip(found, rewards, strict=True)]
    estimates = _estimates(task, found, known)
    return (
        decisions if estimates is None else [replace(d, estimates=e) for d, e in zip(decisions, estimates, strict=True)]
    )


def _utilities(task: Task, found: list[Contest], known: LogprobTable, judge: Judge) -> list[Array]:
    groups = [contest.group for contest in found]
    return [judge.utilities(features_of(task, known, g, judge.features)) for g in groups]


def _true_rewards(task: Task, found: list[Contest]) -> list[Array]:
    """[2 + C, N] of each contest, larger is better; NaN where a judge refused."""
    config = task.config
    responses = [(*task.texts(each.row), *(c.response for c in each.contenders)) for each in found]
    items = [Item(each.row.prompt, y) for each, mine in zip(found, responses, strict=True) for y in mine]
    rewards = signed_rewards(config.objectives, items, config.execution, task.progress, moment=task.moment)
    return np.split(rewards, np.cumsum([len(mine) for mine in responses])[:-1])


def _estimates(task: Task, found: list[Contest], known: LogprobTable) -> list[Array] | None:
    """Each candidate's probability of truly being better [C], by the policies' own log-ratios, scaled on validation
    rows, which they were not trained on; None where there are none with a label for every objective.
    """
    if not task.splits.validation:
        return None
    pairs = labelled_pairs(task, task.splits.validation, known, ("logratios",))
    if not (pairs.signs_P_N != 0).any(axis=0).all():
        return None
    judge = fit_own_scale(pairs, task.config.filter.ridge)
    return [np.exp(soft_dominance(utilities)) for utilities in _utilities(task, found, known, judge)]


def _records(contest: Contest, decision: Decision) -> list[Candidate]:
    rewards = [dict(zip(decision.judges, map(or_none, each), strict=True)) for each in decision.rewards.tolist()]
    originals = {judge: [each[judge] for each in rewards[:ORIGINALS]] for judge in decision.judges}
    means = decision.rewards[ORIGINALS:].mean(axis=1).tolist()
    return [
        Candidate(
            contest.row.id, contest.row.key, each.source, each.weights, each.index, each.response,
            list(each.tokens), len(each.tokens), rewards[ORIGINALS + at],
            dict(originals), or_none(means[at]), decision.fates[at],
            None if decision.estimates is None else or_none(float(decision.estimates[at])), list(decision.reasons[at]),
        )
        for at, each in enumerate(contest.contenders)
    ]  # fmt: skip


def _summary(
    task: Task, known: LogprobTable, candidates: list[Candidate], calibration: dict[str, Any] | None
) -> dict[str, Any]:
    """How the choice ended, and how far to trust it: accuracies on pairs that the judges have not seen, and the
    mean estimate among the chosen (the precision to expect) and among all candidates (that of a blind choice).
    """
    if calibration is not None:
        accuracy, held_out = calibration["accuracy"], "other folds"
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
        "judge": calibration,
    }


def _no_opinion(task: Task, found: list[Contest], known: LogprobTable) -> list[str]:
    """The objectives whose policy says of every response what the reference says."""
    ratios = [known.logratios(each.group, [policy(name) for name in task.objectives]) for each in found]
    return [name for i, name in enumerate(task.objectives) if not any(each[:, i].any() for each in ratios)]


def _mean_estimate(candidates: list[Candidate]) -> float | None:
    estimates = [each.estimate for each in candidates if each.estimate is not None]
    return float(np.mean(estimates)) if estimates else None
