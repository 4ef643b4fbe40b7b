"""Judges that the calibrated rule could have had and has not: what they would have chosen, by their precision.

`ensemble` averages the utilities by the policies and by those of every fold; `reward head` adds a linear reward
head on the backbone's last hidden state, fitted out of fold, as a feature for each objective.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import torch

from sipo.bank import Bank, load_adapter
from sipo.data import folds_of
from sipo.declare.parts import LOGPROBS, REFINEMENTS, SAMPLES
from sipo.decoding import at_soup
from sipo.disk.run import RunFolder
from sipo.filters.bradley_terry import LabelledPairs, fit_utilities
from sipo.filters.calibrated import Calibrated, decide_calibrated, fit_on_labelled
from sipo.filters.contest import CHOSEN, Array, Contest, contests
from sipo.filters.evidence import features_of, labelled_pairs, of_contest, utilities_of
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import ScoreRequest
from sipo.logprobs.table import LogprobTable, policy
from sipo.memory import Pieces
from sipo.runs.outputs import Outputs
from sipo.stages.sample import worked_rows
from sipo.task import Task
from sipo.weights import corners

HEAD_RIDGE = 100.0
"""The head sees as many numbers as the model is wide, so it is held tighter than the judge."""
TOGETHER = 256

Choice = dict[str, str]
"""The chosen response by row id."""


def choices(run: Path, task: Task) -> dict[str, Choice]:
    """By variant; `run` has been filtered by the calibrated rule."""
    outputs = Outputs(run, task.config)
    rows = worked_rows(task)
    samples, refinements = outputs.read("sample", SAMPLES), outputs.read("refine", REFINEMENTS)
    found = contests(rows, {row.id: task.group(row) for row in rows}, samples, refinements)
    known, held_out = outputs.read("score", LOGPROBS), outputs.read("calibrate", LOGPROBS)
    variants = {
        "ensemble": _ensemble(run, task, found, known, held_out),
        "reward head": _with_head(task, found, known, held_out),
    }
    return {name: _chosen(task, found, utilities) for name, utilities in variants.items()}


def _settings(task: Task) -> Calibrated:
    return cast(Calibrated, task.config.filter)


def _chosen(task: Task, found: Sequence[Contest], utilities: Sequence[Array]) -> Choice:
    settings = _settings(task)
    decisions = decide_calibrated(found, utilities, task.objectives, settings.pool, settings.keep)
    return {
        contest.row.id: contest.contenders[decision.fates.index(CHOSEN)].response
        for contest, decision in zip(found, decisions, strict=True)
        if CHOSEN in decision.fates
    }


def _ensemble(
    run: Path, task: Task, found: Sequence[Contest], known: LogprobTable, held_out: LogprobTable
) -> list[Array]:
    judge, _ = fit_on_labelled(task, _settings(task), held_out)
    tables = [known, *(_fold_table(run, task, found, known, fold) for fold in range(_settings(task).folds))]
    by_table = [utilities_of(task, found, table, judge) for table in tables]
    return [np.mean(mine, axis=0) for mine in zip(*by_table, strict=True)]


def _fold_table(run: Path, task: Task, found: Sequence[Contest], known: LogprobTable, fold: int) -> LogprobTable:
    """The contests under the policies of a fold, with the references that are known."""
    table = deepcopy(known)
    folder = RunFolder(run).verify("calibrate") / "adapters"
    adapters = [load_adapter(folder / f"{fold}-{name}") for name in task.objectives]
    asked = [
        (policy(name), ScoreRequest(each.group.prompt, response, at_soup(point)))
        for name, point in zip(task.objectives, corners(len(adapters)), strict=True)
        for each in found
        for response in each.group.responses
    ]
    with task.engine() as engine:
        for unit, value in engine.score(task.span(adapters), [request for _, request in asked]):
            name, (prompt, response, _) = asked[unit]
            table.put(name, Group(prompt, (response,)), [value])
    return table


def _with_head(task: Task, found: Sequence[Contest], known: LogprobTable, held_out: LogprobTable) -> list[Array]:
    settings, rows = _settings(task), task.splits.train
    pairs = labelled_pairs(task, rows, held_out, settings.asked)
    folds = folds_of(rows, settings.folds, task.config.seed)
    of_pair = np.array([folds[row.key] for row in rows])
    states = LabelledPairs(np.stack(_last_states(task.bank, [task.group(row) for row in rows])), pairs.signs_P_N)
    scored = np.zeros((*states.features_P_2_F.shape[:2], len(task.objectives)))
    for fold in range(settings.folds):
        inside, outside = of_pair == fold, of_pair != fold
        head = fit_utilities(
            LabelledPairs(states.features_P_2_F[outside], states.signs_P_N[outside]), ("state",), HEAD_RIDGE
        )
        scored[inside] = head.utilities(states.features_P_2_F[inside])
    judge = fit_utilities(
        LabelledPairs(np.concatenate([pairs.features_P_2_F, scored], axis=2), pairs.signs_P_N),
        (*settings.asked, "reward head"),
        settings.ridge,
    )
    head = fit_utilities(states, ("state",), HEAD_RIDGE)
    features = features_of(task, [of_contest(task, each) for each in found], known, settings.asked)
    states_of = _last_states(task.bank, [each.group for each in found])
    return [
        judge.utilities(np.concatenate([*mine, head.utilities(states)], axis=1))
        for *mine, states in zip(*features.values(), states_of, strict=True)
    ]


@torch.no_grad()
def _last_states(bank: Bank, groups: Sequence[Group]) -> list[Array]:
    """For each group [R, d]: the backbone's last hidden state at each response's last token."""
    pieces = Pieces("prompts", None)

    def read(part: Sequence[Group]) -> list[Array]:
        packed = pack(part, bank.device)
        output = bank.hidden_states(
            torch.zeros(len(part), 0), layout=packed.layout, input_ids=packed.ids, use_cache=False
        ).last_hidden_state
        ends = [np.cumsum([len(group.prompt), *map(len, group.responses)])[1:] - 1 for group in part]
        return [states[last].double().numpy() for states, last in zip(output, ends, strict=True)]

    with bank.mounted([]):
        parts = [groups[start : start + TOGETHER] for start in range(0, len(groups), TOGETHER)]
        return [states for part in parts for states in pieces.slices(part, read)]
