"""How long the answers are: rewards that rise with length are won by length, too."""

from collections.abc import Mapping, Sequence

import numpy as np

from sipo.pareto.verdicts import ENOUGH, mean_difference
from sipo.records import Response
from sipo.report.fronts import INTERVAL
from sipo.report.parts import Cell, Measured, Table, share


def lengths(points: Mapping[str, Sequence[Sequence[Response]]]) -> Table:
    """Of every method's answers by the points of its front: tokens, beside the base model's on the same prompts."""
    mean_P = {name: _by_prompt([each for part in mine for each in part]) for name, mine in points.items()}
    base = mean_P.get("base")
    rows: list[list[Cell]] = []
    for name, mine in points.items():
        answers = [each for part in mine for each in part]
        by_point = [float(np.mean([each.length for each in part])) for part in mine]
        row: list[Cell] = [name, _measured(mean_P[name])]
        if base is not None:
            row.append(None if name == "base" else _measured(mean_P[name] - base))
        row += [min(by_point), max(by_point), share(sum(not each.finished for each in answers), len(answers))]
        rows.append(row)
    less = [f"less the base model's [{INTERVAL}]"] if base is not None else []
    columns = ["method", f"mean tokens [{INTERVAL}]", *less, "shortest weight", "longest weight", "cut by the limit"]
    return Table(columns, rows)


def _by_prompt(answers: Sequence[Response]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found: dict[str, list[int]] = {}
    for each in answers:
        found.setdefault(each.prompt, []).append(each.length)
    return np.array([np.mean(found[key]) for key in sorted(found)])


def _measured(values_P: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Cell:
    """With Student's interval over the prompts; the mean alone where they are too few for one."""
    found = mean_difference(values_P)
    return Measured(found.value, *found.interval()) if len(values_P) >= ENOUGH else found.value
