"""What speaks for a response: features of it, and judges fitted on labelled rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sipo.data.rows import Row
from sipo.filters.bradley_terry import BradleyTerry, LabelledPairs, fit_own_scale, places, soft_dominance
from sipo.filters.contest import Array, Contest
from sipo.filters.features.registry import find
from sipo.filters.features.spec import Answers

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


def of_row(task: "Task", row: Row) -> Answers:
    """Its two responses, as the run uses them."""
    return Answers(row.prompt, task.texts(row), task.group(row))


def of_contest(task: "Task", contest: Contest) -> Answers:
    """The originals, then the candidates."""
    texts = (*task.texts(contest.row), *(each.response for each in contest.contenders))
    return Answers(contest.row.prompt, texts, contest.group)


def features_of(
    task: "Task", answers: Sequence[Answers], known: "LogprobTable", names: Sequence[str]
) -> dict[str, list[Array]]:
    """By feature, [R, F] of each, by the log-probabilities in `known`."""
    return {name: find(name).measure(task, answers, known) for name in names}


def labelled_pairs(task: "Task", rows: list[Row], known: "LogprobTable", names: Sequence[str]) -> LabelledPairs:
    """Features and labels of the rows' two responses."""
    found = features_of(task, [of_row(task, row) for row in rows], known, names)
    stacked = {name: np.stack(parts) for name, parts in found.items()}
    signs = np.array([[row.sign(name) for name in task.objectives] for row in rows])
    return LabelledPairs(np.concatenate([*stacked.values()], axis=2), signs, places(stacked))


def utilities_of(task: "Task", found: Sequence[Contest], known: "LogprobTable", judge: BradleyTerry) -> list[Array]:
    """[2 + C, N] of each contest by a judge, larger is better."""
    features = features_of(task, [of_contest(task, each) for each in found], known, judge.features)
    return [judge.utilities(np.concatenate(mine, axis=1)) for mine in zip(*features.values(), strict=True)]


def estimates(task: "Task", found: Sequence[Contest], known: "LogprobTable", ridge: float) -> list[Array] | None:
    """Each candidate's probability of truly being better [C], by the policies' own log-ratios, scaled on validation
    rows, which they were not trained on; None where there are none with a label for every objective.
    """
    if not task.splits.validation:
        return None
    pairs = labelled_pairs(task, task.splits.validation, known, ("logratios",))
    if not (pairs.signs_P_N != 0).any(axis=0).all():
        return None
    judge = fit_own_scale(pairs, ridge)
    return [np.exp(soft_dominance(utilities)) for utilities in utilities_of(task, found, known, judge)]


def contradicted(differences_P_N: Array, signs_P_N: Array) -> Array:
    """[N]: the noise of each judge, the root mean square of its differences that contradict the label, in their unit;
    0 where none does.

    Pairs that tie in truth are labelled by chance: of normal errors among these it is the standard deviation.
    """
    wrong = differences_P_N * signs_P_N < 0
    return np.asarray(np.sqrt((differences_P_N**2 * wrong).sum(axis=0) / np.maximum(wrong.sum(axis=0), 1)))


def own_accuracy(task: "Task", rows: list[Row], known: "LogprobTable") -> Array:
    """[N] how often each policy's own log-ratio agrees with its objective's labels; an equal one half agrees."""
    pairs = labelled_pairs(task, rows, known, ("logratios",))
    differences = pairs.features_P_2_F[:, 1] - pairs.features_P_2_F[:, 0]
    given = pairs.signs_P_N != 0
    right = ((np.sign(differences * pairs.signs_P_N) + 1) / 2 * given).sum(axis=0)
    return np.asarray(right / np.maximum(given.sum(axis=0), 1))


def by_objective(task: "Task", values: Array) -> dict[str, float]:
    return dict(zip(task.objectives, values.tolist(), strict=True))
