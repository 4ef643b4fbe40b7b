"""Stage agreement: how far the judges can be trusted, on pairs of the data that have labels. Writes `agreement.json`.

The pairs are held-out and validation rows, one a prompt. A judge that compares is asked which of the
row's two responses is better, in both orders, as it is of answers; one that grades, for both grades.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.data import Row
from sipo.decoding import seed_of
from sipo.disk.tables import write_json
from sipo.pareto.bootstrap import Array
from sipo.pareto.wins import win_rate
from sipo.report.fronts import trusted
from sipo.rewards import Item, first_preferred, score_responses
from sipo.rewards.kinds.judge import kin_of
from sipo.rewards.objective import Objective
from sipo.stages.sample import one_row_a_prompt
from sipo.task import Task


def agreement(task: Task, folder: Path, *, pairs: int) -> dict[str, Any]:
    """By objective with a judge: how many `labels` there are, `right` for each (1, 0, or .5 where the judge finds both
    even), its mean as `agreement`; of a judge that compares how often it found better what it read `first`, and the
    share of pairs in which its two readings are `contradicting` each other. `kin` are the families of models that it is
    of as well as the policies. `pairs` is how many are asked, at most.
    """
    config = task.config
    judged = [each for each in config.objectives if each.judged]
    rows = labelled_rows(task, [each.name for each in judged])[:pairs]
    texts = [(row.prompt, *task.texts(row)) for row in rows]
    grading, comparing = ([each for each in judged if each.compares == compares] for compares in (False, True))
    flat = [Item(prompt, y) for prompt, *both in texts for y in both]
    both_orders = [Item(prompt, second, first) for prompt, first, second in texts]
    asked = (config.execution, task.progress)
    grades = {name: np.array(each) for name, each in _of(grading, flat, asked, task).items()}
    wins = {name: np.array(each) for name, each in _of(comparing, both_orders, asked, task).items()}
    places = first_preferred(comparing, both_orders, *asked, moment=task.moment) if comparing and rows else {}
    found = {}
    for each in judged:
        labels = np.array([row.sign(each.name) for row in rows], dtype=float)
        if each.compares:
            told = wins[each.name] - 0.5
        else:
            told = (grades[each.name][1::2] - grades[each.name][::2]) * (1 if each.maximise else -1)
        kin = kin_of(each.reward, config.model.path)
        found[each.name] = {**_told(each, told, labels, places.get(each.name)), "kin": kin}
    write_json(folder / "agreement.json", found)
    for name, told_of in found.items():
        task.progress.say(f"{name}: {trusted(told_of)}")
    return found


def labelled_rows(task: Task, objectives: Sequence[str]) -> list[Row]:
    """With a label by one of the objectives, and two texts that differ as the run uses them."""
    rows = one_row_a_prompt([*task.splits.test, *task.splits.validation])
    rows.sort(key=lambda row: seed_of(task.config.seed, "agreement", row.key))
    usable = [row for row in rows if any(row.preferred[name] is not None for name in objectives)]
    return [row for row in usable if len({text.strip() for text in task.texts(row)}) == 2]


def _of(
    objectives: Sequence[Objective], items: Sequence[Item], asked: tuple[Any, Any], task: Task
) -> dict[str, list[float]]:
    if not objectives or not items:
        return {each.name: [] for each in objectives}
    return score_responses(objectives, items, *asked, moment=task.moment)


def _told(objective: Objective, told: Array, labels: Array, places: Sequence[float] | None) -> dict[str, Any]:
    """`told` is above 0 where the judge finds the second better, `labels` where the label does."""
    known = np.isfinite(told) & (labels != 0)
    right = (np.sign(told[known]) * labels[known] + 1) / 2
    first = np.array([] if places is None else [each for each in places if not math.isnan(each)])
    return {
        "judge": str(objective.reward),
        "compares": objective.compares,
        "labels": len(right),
        "right": right.tolist(),
        "agreement": list(win_rate(right)) if len(right) else None,
        "first": list(win_rate(first)) if len(first) else None,
        "contradicting": float(np.mean(np.abs(first - 0.5) == 0.5)) if len(first) else None,
    }
