"""What speaks for a response: features from the table of log-probabilities, and judges fitted on labelled rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sipo.data.rows import Row
from sipo.filters.bradley_terry import (
    BradleyTerry,
    LabelledPairs,
    fit_own_scale,
    response_features,
    soft_dominance,
)
from sipo.filters.contest import Array, Contest

if TYPE_CHECKING:
    from sipo.logprobs.packing import Group
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task

Names = tuple[str, ...]


def labelled_pairs(task: "Task", rows: list[Row], known: "LogprobTable", names: Names) -> LabelledPairs:
    """Features and labels of the rows' two responses, by the policies and the reference in `known`."""
    features, signs = [], []
    for row in rows:
        features.append(features_of(task, known, task.group(row), names))
        signs.append([row.sign(name) for name in task.objectives])
    return LabelledPairs(np.stack(features), np.array(signs))


def features_of(task: "Task", known: "LogprobTable", group: "Group", names: Names) -> Array:
    """[R, F] of the responses to one prompt."""
    from sipo.logprobs.table import REFERENCE, policy

    logprobs = known.of(group, [*map(policy, task.objectives), REFERENCE])
    lengths = np.array([float(len(response)) for response in group.responses])
    return response_features(logprobs[:, :-1], logprobs[:, -1], lengths, names)


def utilities_of(task: "Task", found: Sequence[Contest], known: "LogprobTable", judge: BradleyTerry) -> list[Array]:
    """[2 + C, N] of each contest by a judge, larger is better."""
    return [judge.utilities(features_of(task, known, contest.group, judge.features)) for contest in found]


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
