"""The calibrated rule: a soft dominance by judges that were fitted out of fold, and the surest rows only.

For a candidate c, with u_i the judge's utility for objective i,

    a(c) = sum over objectives and originals of log sigmoid(u_i(c) - u_i(original))
    b(c) = sum over objectives of the mean over the other candidates of log sigmoid(u_i(c) - u_i(other))

y_c has the largest a + b of the pool, and the share `keep` of the rows with the largest a stays. A hard gate would
fail on ties at the ceiling of an objective; the product forgives them.

What the judges see of a response is `features`, a file each in `sipo.filters.features`. Only those that go by the
policies need policies that have not seen the labelled rows; without them nothing more is trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from sipo.data.splits import folds_of
from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work
from sipo.errors import SipoError
from sipo.filters.bradley_terry import BradleyTerry, log_sigmoid, soft_dominance
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision, Pool
from sipo.filters.evidence import by_objective, labelled_pairs, own_accuracy, utilities_of
from sipo.filters.features.registry import check_name, find, specs
from sipo.filters.features.spec import FeatureSpec
from sipo.filters.selection import Fit, Trial, fit_taken, take, tried
from sipo.filters.spec import Filter, Outcome, RuleSpec
from sipo.settings.section import Number, Positive, Rate, Whole

if TYPE_CHECKING:
    from sipo.graph.build import Graph
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task

Feature = Annotated[str, AfterValidator(check_name)]


class Calibrated(Filter):
    rule: Literal["calibrated"]
    """By judges that are fitted on labelled pairs out of fold; the surest rows stay."""
    features: Literal["auto"] | Annotated[tuple[Feature, ...], Field(min_length=1)] = (
        "logratios",
        "logratios-per-token",
        "length",
        "reference-per-token",
    )
    """What the judges see of a response; further ones are surface, embedding and reward. `auto` takes for each
    objective the best of `tries` by itself, or all of them together, by accuracy on the other folds."""
    tries: Annotated[tuple[Feature, ...], Field(min_length=1)] | None = None
    """With `features: auto`, what to try; null is all that need no policies of folds."""
    components: Positive = 16
    """Principal components that a judge sees of an embedding."""
    reward_model: str | None = None
    """What the feature reward asks: a folder of `sipo reward train`, or a hub id. Train it on other rows than these:
    accuracy on other folds does not tell what it remembers of their labels."""
    reward_format: str = "chat"
    """As a reward's format."""
    ridge: Rate = 1.0
    """How strongly the judges' weights are held near 0."""
    folds: Annotated[Whole, Field(ge=2, le=100)] = 2
    """Into so many the training rows are cut, and judges that were fitted on the others are tried on each; where
    features go by the policies, policies that were trained on the others score it."""
    keep: Annotated[Number, Field(gt=0, le=1)] = 0.75
    """The share of the rows that are kept: those with the surest y_c."""

    @model_validator(mode="after")
    def _is_read(self) -> Self:
        if self.tries is not None and self.features != "auto":
            raise ValueError("tries: is read with features: auto alone; leave it out")
        if self.reward_model is not None and "reward" not in self.asked:
            raise ValueError("reward_model: no feature asks it; put reward into features, or into tries")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """The features that are measured."""
        if self.features != "auto":
            return tuple(dict.fromkeys(self.features))
        free = (name for name, each in specs().items() if not each.unseen)
        tries = self.tries or tuple(name for name in free if name != "reward" or self.reward_model)
        return tuple(dict.fromkeys(tries))

    @property
    def sets(self) -> list[tuple[str, ...]]:
        """Those of which the best is taken, for each objective."""
        alone = [(name,) for name in self.asked] if self.features == "auto" and len(self.asked) > 1 else []
        return [*alone, self.asked]


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


def fit_on_labelled(
    task: "Task", settings: Calibrated, labelled: "LogprobTable"
) -> tuple[BradleyTerry, dict[str, Any]]:
    """The judge of all training rows, and what people should know of it. `labelled` has the rows' log-probabilities,
    as `calibrate` scored them where features go by the policies.
    """
    rows = task.splits.train
    pairs, fit = labelled_pairs(task, rows, labelled, settings.asked), fit_of(task, settings)
    trials = tried(pairs, settings.sets, fit)
    taken = [take(each) for each in trials]
    judge = fit_taken(pairs, [each.features for each in taken], fit)
    report: dict[str, Any] = {
        **judge.as_json(),
        "accuracy": by_objective(task, np.array([each.accuracy for each in taken])),
        "pairs": by_objective(task, (pairs.signs_P_N != 0).sum(axis=0)),
        "tried": {
            name: [{**asdict(each), "beats_chance": each.beats_chance, "taken": each is mine} for each in one]
            for name, one, mine in zip(task.objectives, trials, taken, strict=True)
        },
    }
    if _goes_by_policies(settings):
        report["accuracy_of_the_policy_alone"] = by_objective(task, own_accuracy(task, rows, labelled))
    _tell(task, trials, taken)
    return judge, report


def fit_of(task: "Task", settings: Calibrated) -> Fit:
    """How judges are fitted to the training rows."""
    rows = task.splits.train
    folds, number = folds_of(rows, settings.folds, task.config.seed), {row.key: at for at, row in enumerate(rows)}
    reduced = {name: settings.components for name in settings.asked if find(name).reduced}
    of_pair = np.array([[folds[row.key], number[row.key]] for row in rows])
    return Fit(settings.ridge, reduced, *of_pair.T)


def _tell(task: "Task", trials: Sequence[Sequence[Trial]], taken: Sequence[Trial]) -> None:
    task.progress.table(
        "judges, on pairs held out",
        ["objective", "features", "accuracy", "standard error", "taken"],
        [
            [name, " + ".join(each.features), each.accuracy, each.error, "yes" if each is mine else ""]
            for name, one, mine in zip(task.objectives, trials, taken, strict=True)
            for each in one
        ],
    )
    if blind := [
        name for name, one in zip(task.objectives, trials, strict=True) if not any(t.beats_chance for t in one)
    ]:
        task.progress.say(
            f"warning: nothing that was tried tells the labels of {' and '.join(blind)} better than chance, so the "
            "choice is blind there"
        )


def _decide(task: "Task", contests: Sequence[Contest], known: "LogprobTable", *, labelled: "LogprobTable") -> Outcome:
    settings = cast(Calibrated, task.config.filter)
    judge, report = fit_on_labelled(task, settings, labelled)
    utilities = utilities_of(task, contests, known, judge)
    return Outcome(decide_calibrated(contests, utilities, task.objectives, settings.pool, settings.keep), report)


def _asked(settings: Calibrated) -> list[FeatureSpec]:
    return [find(name) for name in settings.asked]


def _goes_by_policies(settings: Calibrated) -> bool:
    return any(each.unseen for each in _asked(settings))


def _needs(graph: "Graph") -> Inputs:
    from sipo.declare.parts import LOGPROBS

    settings = cast(Calibrated, graph.config.filter)
    unseen = _goes_by_policies(settings)
    return {"labelled": graph.held_out(settings.folds) if unseen else graph.align[LOGPROBS]}


def _work(plan: Plan) -> Work:
    return sum((each.work(plan) for each in _asked(cast(Calibrated, plan.config.filter))), Work())


def _peak(settings: Calibrated) -> Callable[[Any], float] | None:
    peaks = [each.peak for each in _asked(settings) if each.peak]
    return (lambda reckoning: max(peak(reckoning) for peak in peaks)) if peaks else None


def _fits(task: "Task") -> None:
    """Are there labels left to train on outside of each fold, for each objective, and all that features ask?"""
    settings, rows = cast(Calibrated, task.config.filter), task.splits.train
    count, prompts = settings.folds, len({row.key for row in rows})
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
    for each in _asked(settings):
        if each.fits:
            each.fits(task)


RULES = (
    RuleSpec(
        Calibrated,
        "judges fitted on labelled pairs, out of fold; the surest rows",
        _decide,
        _needs,
        keeps=lambda settings, *_: (settings.keep, settings.keep),
        fits=_fits,
        asks=lambda settings: tuple(each.measure for each in _asked(settings)),
        places=("reward_model",),
        work=_work,
        peak=_peak,
        version=2,
    ),
)
