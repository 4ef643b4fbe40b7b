"""What speaks for a response: features from the table of log-probabilities, and judges fitted on labelled rows."""

from typing import Any

import numpy as np

from sipo.data import Row, folds_of
from sipo.filters.judge import Array, Judge, LabelledPairs, fit_judge, held_out_accuracy, response_features
from sipo.logprobs.packing import Group
from sipo.logprobs.table import REFERENCE, LogprobTable, policy
from sipo.task import Task

Names = tuple[str, ...]


def fit_on_held_out(task: Task, held_out: LogprobTable) -> tuple[Judge, dict[str, Any]]:
    """The judge of `filter.features`, fitted on all training rows, and what people should know of it. `held_out` has
    the rows as `calibrate` scored them.
    """
    settings, rows = task.config.filter, task.splits.train
    pairs = labelled_pairs(task, rows, held_out, settings.features)
    judge = fit_judge(pairs, settings.features, settings.ridge)
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


def labelled_pairs(task: Task, rows: list[Row], known: LogprobTable, names: Names) -> LabelledPairs:
    """Features and labels of the rows' two responses, by the policies and the reference in `known`."""
    features, signs = [], []
    for row in rows:
        features.append(features_of(task, known, task.group(row), names))
        signs.append([row.sign(name) for name in task.objectives])
    return LabelledPairs(np.stack(features), np.array(signs))


def features_of(task: Task, known: LogprobTable, group: Group, names: Names) -> Array:
    """[R, F] of the responses to one prompt."""
    logprobs = known.of(group, [*map(policy, task.objectives), REFERENCE])
    lengths = np.array([float(len(response)) for response in group.responses])
    return response_features(logprobs[:, :-1], logprobs[:, -1], lengths, names)


def own_accuracy(task: Task, rows: list[Row], known: LogprobTable) -> Array:
    """[N] how often each policy's own log-ratio agrees with its objective's labels; an equal one half agrees."""
    pairs = labelled_pairs(task, rows, known, ("logratios",))
    differences = pairs.features_P_2_F[:, 1] - pairs.features_P_2_F[:, 0]
    given = pairs.signs_P_N != 0
    right = ((np.sign(differences * pairs.signs_P_N) + 1) / 2 * given).sum(axis=0)
    return np.asarray(right / np.maximum(given.sum(axis=0), 1))


def by_objective(task: Task, values: Array) -> dict[str, float]:
    return dict(zip(task.objectives, values.tolist(), strict=True))
