"""The calibrated rule: a soft dominance by judges that were fitted out of fold, and the surest rows only.

For a candidate c, with u_i the judge's utility for objective i,

    a(c) = sum over objectives and originals of log sigmoid(u_i(c) - u_i(original))
    b(c) = sum over objectives of the mean over the other candidates of log sigmoid(u_i(c) - u_i(other))

y_c has the largest a + b of the pool, and the share `keep` of the rows with the largest a stays. A hard gate would
fail on ties at the ceiling of an objective; the product forgives them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field

from sipo.data.splits import folds_of
from sipo.declare.stage import Inputs
from sipo.errors import SipoError
from sipo.filters.bradley_terry import BradleyTerry, fit_utilities, held_out_accuracy, log_sigmoid, soft_dominance
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision, Pool
from sipo.filters.evidence import by_objective, labelled_pairs, own_accuracy, utilities_of
from sipo.filters.spec import Filter, Outcome, RuleSpec
from sipo.settings.section import Number, Rate, Whole

if TYPE_CHECKING:
    from sipo.graph.build import Graph
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task

Feature = Literal["logratios", "logratios-per-token", "length", "reference-per-token"]


class Calibrated(Filter):
    rule: Literal["calibrated"]
    """By judges that are fitted on labelled pairs out of fold; the surest rows stay."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = (
        "logratios",
        "logratios-per-token",
        "length",
        "reference-per-token",
    )
    """What the judges see of a response."""
    ridge: Rate = 1.0
    """How strongly the judges' weights are held near 0."""
    folds: Annotated[Whole, Field(ge=2, le=100)] = 2
    """Into so many the training rows are cut; policies that were trained on the others score each."""
    keep: Annotated[Number, Field(gt=0, le=1)] = 0.75
    """The share of the rows that are kept: those with the surest y_c."""


def soft_rank(utilities_R_N: Array) -> Array:
    """b [C]: how a candidate does against the others; 0 where it is alone. Larger is better."""
    candidates = utilities_R_N[ORIGINALS:]
    others = len(candidates) - 1
    if others == 0:
        return np.zeros(1)
    against = log_sigmoid(candidates[:, None] - candidates[None]).sum(axis=2)
    return np.asarray((against.sum(axis=1) - np.diagonal(against)) / others)


def decide_calibrated(
    contests: Sequence[Contest], utilities: Sequence[Array], objectives: Sequence[str], pool: Pool, keep: float
) -> list[Decision]:
    """`utilities`: for each contest [2 + C, N], larger is better."""
    sure = [soft_dominance(mine) for mine in utilities]
    best: list[int | None] = []
    for contest, mine, a in zip(contests, utilities, sure, strict=True):
        eligible = contest.eligible(pool)
        best.append(int(np.where(eligible, a + soft_rank(mine), -np.inf).argmax()) if eligible.any() else None)
    ranked = sorted((i for i, at in enumerate(best) if at is not None), key=lambda i: -sure[i][best[i]])
    kept = set(ranked[: round(keep * len(ranked))])
    decisions = []
    for i, (contest, mine, a) in enumerate(zip(contests, utilities, sure, strict=True)):
        eligible = contest.eligible(pool)
        fates = ["another is surer" if may else NOT_IN_THE_POOL for may in eligible]
        at = best[i]
        if at is not None:
            fates[at] = CHOSEN if i in kept else "not sure enough"
        judges = tuple(f"judge:{name}" for name in objectives)
        decisions.append(Decision(judges, mine, tuple(fates), ((),) * len(fates), np.exp(a)))
    return decisions


def fit_on_held_out(
    task: "Task", settings: Calibrated, held_out: "LogprobTable"
) -> tuple[BradleyTerry, dict[str, Any]]:
    """The judge of `features`, fitted on all training rows, and what people should know of it. `held_out` has
    the rows as `calibrate` scored them.
    """
    rows = task.splits.train
    pairs = labelled_pairs(task, rows, held_out, settings.features)
    judge = fit_utilities(pairs, settings.features, settings.ridge)
    folds = folds_of(rows, settings.folds, task.config.seed)
    of_pair = np.array([folds[row.key] for row in rows])
    accuracy = held_out_accuracy(pairs, of_pair, settings.features, settings.ridge)
    report = {
        **judge.as_json(),
        "accuracy": by_objective(task, accuracy),
        "accuracy_of_the_policy_alone": by_objective(task, own_accuracy(task, rows, held_out)),
        "pairs": by_objective(task, (pairs.signs_P_N != 0).sum(axis=0)),
    }
    task.progress.table(
        "judges, on pairs held out",
        ["objective", "pairs", "accuracy", "of the policy alone"],
        [
            [name, *(report[key][name] for key in ("pairs", "accuracy", "accuracy_of_the_policy_alone"))]
            for name in task.objectives
        ],
    )
    return judge, report


def _decide(task: "Task", contests: Sequence[Contest], known: "LogprobTable", *, held_out: "LogprobTable") -> Outcome:
    settings = cast(Calibrated, task.config.filter)
    judge, report = fit_on_held_out(task, settings, held_out)
    utilities = utilities_of(task, contests, known, judge)
    return Outcome(decide_calibrated(contests, utilities, task.objectives, settings.pool, settings.keep), report)


def _needs(graph: "Graph") -> Inputs:
    return {"held_out": graph.held_out(cast(Calibrated, graph.config.filter).folds)}


def _fits(task: "Task") -> None:
    """Are there labels left to train on outside of each fold, for each objective?"""
    count, rows = cast(Calibrated, task.config.filter).folds, task.splits.train
    prompts = len({row.key for row in rows})
    if count > prompts:
        raise SipoError(f"filter.folds: {count}, but there are {prompts} training prompts; lower it")
    folds = folds_of(rows, count, task.config.seed)
    for name in task.objectives:
        labelled = {folds[row.key] for row in rows if row.preferred[name] is not None}
        if len(labelled) < 2:
            raise SipoError(
                f"filter.folds: all training rows with a label of `{name}` fall into one of {count} folds, so "
                "there is none to train on outside of it; raise it, or label more rows"
            )


RULES = (
    RuleSpec(
        Calibrated,
        "judges fitted on labelled pairs, out of fold; the surest rows",
        _decide,
        _needs,
        keeps=lambda settings, *_: (settings.keep, settings.keep),
        fits=_fits,
    ),
)
