"""Training curves: loss and accuracy of every stage that trains, a line for each objective.

Places are in units of a viewBox, as in `chart`; the template draws them as SVG in the page's colours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Any

import numpy as np

from sipo.report.axes import Axis, Tick, axis
from sipo.report.looks import OBJECTIVES
from sipo.report.parts import alike

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 10.0, 24.0
MOST = 120
"""Points of a line; where there are more steps, each is the mean of some that follow each other."""
Steps = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """A measure in one training."""

    name: str
    """Of the objective, or of the weight; empty where there is one for all."""
    color: str
    dashes: str
    """As matplotlib names them."""
    steps: str
    """Path of each step's batch."""
    mean: str
    """Path of the mean of the last few."""
    validated: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Panel:
    measure: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    said: str
    """For those who hear the page: where each line begins and ends."""

    @property
    def ticks(self) -> list[Tick]:
        """Of x: steps are whole."""
        return [tick for tick in self.x.ticks(4) if "." not in tick.label]


@dataclass(frozen=True)
class Trained:
    stage: str
    panels: Sequence[Panel]
    legend: Sequence[Curve]


def curves(training: Mapping[str, Steps]) -> list[Trained]:
    """One for each stage; `training` holds the records of its steps, as `training.jsonl` has them."""
    found = []
    for stage, steps in training.items():
        parts = [(name, list(mine)) for name, mine in groupby(steps, _training)]
        panels = [_panel(measure, parts) for measure in ("loss", "accuracy") if any(measure in each for each in steps)]
        legend = {each.name: each for panel in panels for each in panel.curves if each.name}
        found.append(Trained(stage, panels, list(legend.values())))
    return [each for each in found if each.panels]


def _training(step: Mapping[str, Any]) -> tuple[str, Any]:
    """Which training of its stage it is of: folds of an objective share its name."""
    return step.get("objective", ""), step.get("fold")


def _panel(measure: str, parts: Sequence[tuple[tuple[str, Any], Steps]]) -> Panel:
    looks = dict(zip(dict.fromkeys(name for (name, _), _ in parts), cycle(OBJECTIVES), strict=False))
    parts = [(each, [step for step in steps if measure in step]) for each, steps in parts]
    lines = [(name, _line(steps, measure)) for (name, _), steps in parts if steps]
    rings = [list(_validated(steps)) if measure == "loss" else [] for _, steps in parts if steps]
    x = axis("step", True, [0.0, *(at for _, (ats, *_) in lines for at in ats)], LEFT, WIDTH - RIGHT)
    values = [value for _, (_, *both) in lines for each in both for value in each]
    values += [value for each in rings for _, value in each]
    y = axis(measure, True, [0.0, 1.0] if measure == "accuracy" else values, HEIGHT - BOTTOM, TOP)
    drawn = [
        Curve(
            name, *looks[name], _path(x, y, ats, values), _path(x, y, ats, means),
            [(x.place(at), y.place(value)) for at, value in ring],
        )
        for (name, (ats, values, means)), ring in zip(lines, rings, strict=True)
    ]  # fmt: skip
    ends = [(name, *alike(means[0], means[-1])) for name, (_, _, means) in lines]
    said = "; ".join(f"{name} {first} to {last}".strip() for name, first, last in ends)
    return Panel(measure, x, y, drawn, f"{measure} by step: {said}")


def _line(steps: Steps, measure: str) -> tuple[list[float], list[float], list[float]]:
    """Steps, values, and the mean of the last fifteenth of them, thinned alike."""
    values = np.array([step[measure] for step in steps], float)
    window = max(1, len(values) // 15)
    sums = np.concatenate([[0.0], values.cumsum()])
    upto = np.arange(1, len(values) + 1)
    since = np.maximum(0, upto - window)
    means = (sums[upto] - sums[since]) / (upto - since)
    at = np.array([step["step"] for step in steps], float)
    begins = np.arange(0, len(values), -(-len(values) // MOST))
    counts = np.diff([*begins, len(values)])
    ats, thin, smooth = (np.add.reduceat(each, begins) / counts for each in (at, values, means))
    return ats.tolist(), thin.tolist(), smooth.tolist()


def _validated(steps: Steps) -> Iterator[tuple[float, float]]:
    """Validation losses, the first before the first step."""
    for step in steps:
        if "start_validation_loss" in step:
            yield 0.0, step["start_validation_loss"]
        if "validation_loss" in step:
            yield step["step"], step["validation_loss"]


def _path(x: Axis, y: Axis, ats: Sequence[float], values: Sequence[float]) -> str:
    """One point alone is a line of no length, which round ends make a dot."""
    places = [f"{x.place(at):g},{y.place(value):g}" for at, value in zip(ats, values, strict=True)]
    return f"M{'L'.join(places)}" if len(places) > 1 else f"M{places[0]}h0"
