"""What the models say of a response, and its length: h_i = log pi_i - log pi_ref of each policy, and log pi_ref."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sipo.filters.contest import Array
from sipo.filters.features.spec import Answers, FeatureSpec

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


def lengths_of(each: Answers) -> Array:
    """[R, 1] in tokens."""
    return np.array([[float(len(response))] for response in each.group.responses])


def _lengths(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    return [lengths_of(each) for each in answers]


def _ratios(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    from sipo.logprobs.table import policy

    names = [policy(name) for name in task.objectives]
    return [table.logratios(each.group, names) for each in answers]


def _reference(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    from sipo.logprobs.table import REFERENCE

    return [table.of(each.group, [REFERENCE]) for each in answers]


Measure = Callable[["Task", Sequence[Answers], "LogprobTable"], list[Array]]


def per_token(measure: Measure, task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    found = measure(task, answers, table)
    return [values / lengths_of(each) for values, each in zip(found, answers, strict=True)]


FEATURES = (
    FeatureSpec("length", "tokens", _lengths),
    FeatureSpec("reference-per-token", "log pi_ref a token", partial(per_token, _reference)),
    FeatureSpec("logratios", "log pi_i - log pi_ref, by every policy", _ratios, unseen=True),
    FeatureSpec("logratios-per-token", "the same a token", partial(per_token, _ratios), unseen=True),
)
