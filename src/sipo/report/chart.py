"""The front as a chart for N objectives: two as a plane, three as triangles of weights, more on parallel scales.

Places are in units of a viewBox that the page scales. The template draws them as SVG: colours follow the page's, every
mark can be pointed at and reached by keys, and nothing has to be loaded. Better is right and up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import dist, sqrt
from typing import Any

from sipo.report.axes import Axis, axis
from sipo.report.parts import MINUS, alike, shares

WIDTH, HEIGHT = 520.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 32.0, 44.0
ROW = 46.0
"""Between parallel scales."""
SIDE = 300.0
"""Of a triangle."""


@dataclass(frozen=True)
class Mark:
    """A point of a front."""

    method: str
    place: int | None
    """Of the run's weights; None where no weight steers it."""
    said: str
    """All that is known of it, for people who point at it or hear it."""
    x: float = 0.0
    y: float = 0.0
    across: tuple[float, float] = (0.0, 0.0)
    """Its interval along x."""
    along: tuple[float, float] = (0.0, 0.0)
    label: str = ""
    label_at: tuple[float, float] = (0.0, 0.0)
    level: float = 0.0
    """From 0, the worst of all points, to 1, the best."""
    path: str = ""
    """Of a line through several scales."""


@dataclass(frozen=True)
class Plane:
    x: Axis
    y: Axis
    lines: Mapping[str, str]
    """By method, through its points in the order of the weights."""
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Triangle:
    """The rewards of one objective over the simplex of weights."""

    objective: str
    better: str
    corners: Sequence[tuple[str, float, float, str]]
    """Name, place, and how the text is anchored."""
    radius: float
    """Of the marks, so that they do not touch."""
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Scales:
    axes: Sequence[tuple[Axis, float]]
    """Each with its height in the picture."""
    height: float
    marks: Sequence[Mark]


def points(fronts: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Mapping[str, Any]]]:
    """Every point with its method and the place of its weight."""
    for method, front in fronts["methods"].items():
        for at, point in enumerate(front["points"]):
            yield method, None if point["weights"] is None else at, point


def said(method: str, point: Mapping[str, Any], objectives: Sequence[Mapping[str, str]]) -> str:
    """One line a fact: method and weight, rewards with intervals, length."""
    lines = [method if point["weights"] is None else f"{method} at {shares(point['weights'])}"]
    for each in objectives:
        value, low, high = alike(point["rewards"][each["name"]], *point["interval"][each["name"]])
        lines.append(f"{each['name']} {value}, 95\N{NO-BREAK SPACE}% interval {low} to {high}")
    return "\n".join([*lines, f"{point['length']:.1f} tokens"])


def plane(fronts: Mapping[str, Any], focus: str) -> Plane:
    """Two objectives. Points carry their weights where there is room, those of the method in focus first."""
    first, second = fronts["objectives"]
    x = _axis(fronts, first, LEFT, WIDTH - RIGHT)
    y = _axis(fronts, second, HEIGHT - BOTTOM, TOP)
    placed = [
        (method, place, point, x.place(point["rewards"][x.name]), y.place(point["rewards"][y.name]))
        for method, place, point in points(fronts)
    ]
    taken = [(across, along, 12.0, 12.0) for *_, across, along in placed]
    marks = []
    for method, place, point, across, along in sorted(placed, key=lambda each: each[0] != focus):
        text = _short(point["weights"]) if place is not None else ""
        at = _room(text, across, along, taken)
        marks.append(
            Mark(
                method, place, said(method, point, fronts["objectives"]), across, along,
                across=_ends(x, point["interval"][x.name]), along=_ends(y, point["interval"][y.name]),
                label=text if at else "", label_at=at or (0.0, 0.0),
            )
        )  # fmt: skip
    lines = {}
    for method in fronts["methods"]:
        mine = [mark for mark in marks if mark.method == method and mark.place is not None]
        lines[method] = _path([(mark.x, mark.y) for mark in mine]) if len(mine) > 1 else ""
    return Plane(x, y, lines, marks)


def triangles(fronts: Mapping[str, Any]) -> list[Triangle]:
    """Three objectives; one triangle for each, its points where their weights are, with rewards as their levels."""
    names = [each["name"] for each in fronts["objectives"]]
    high = SIDE * sqrt(3) / 2
    corners = [(0.0, high), (SIDE, high), (SIDE / 2, 0.0)]
    anchors = ("start", "end", "middle")
    found = []
    for each in fronts["objectives"]:
        scale = _axis(fronts, each, 0.0, 1.0)
        marks = []
        for method, place, point in points(fronts):
            if place is None:
                continue
            x, y = (sum(point["weights"][n] * c[i] for n, c in zip(names, corners, strict=True)) for i in (0, 1))
            reward, told = point["rewards"][each["name"]], said(method, point, fronts["objectives"])
            label, level = f"{reward:.3g}".replace("-", MINUS), scale.place(reward)
            marks.append(Mark(method, place, told, round(x, 2), round(y, 2), label=label, level=level))
        ends = [(name, x, y, anchor) for name, (x, y), anchor in zip(names, corners, anchors, strict=True)]
        found.append(Triangle(each["name"], scale.better, ends, _radius(marks), marks))
    return found


def _radius(marks: Sequence[Mark]) -> float:
    """Below half of the way from a weight to its nearest neighbour."""
    places = {(mark.x, mark.y) for mark in marks}
    apart = [dist(a, b) for a, b in combinations(places, 2)]
    return round(min(24.0, 0.46 * min(apart, default=SIDE)), 1)


def scales(fronts: Mapping[str, Any]) -> Scales:
    """Any number of objectives, each a scale on which better is right; a point is a line down through all of them."""
    axes = [
        (_axis(fronts, each, 8.0, WIDTH - 8.0), 30.0 + ROW * at) for at, each in enumerate(fronts["objectives"])
    ]  # fmt: skip
    marks = [
        Mark(
            method, place, said(method, point, fronts["objectives"]),
            path=_path([(scale.place(point["rewards"][scale.name]), height) for scale, height in axes]),
        )
        for method, place, point in points(fronts)
    ]  # fmt: skip
    return Scales(axes, 30.0 + ROW * len(axes), marks)


def _axis(fronts: Mapping[str, Any], objective: Mapping[str, str], start: float, end: float) -> Axis:
    name = objective["name"]
    values = [v for *_, point in points(fronts) for v in (point["rewards"][name], *point["interval"][name])]
    return axis(name, objective["direction"] == "maximize", values, start, end)


def _ends(scale: Axis, interval: Sequence[float]) -> tuple[float, float]:
    return scale.place(interval[0]), scale.place(interval[1])


def _short(weights: Mapping[str, float]) -> str:
    return ":".join(f"{100 * share:.0f}" for share in weights.values())


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in places)


def _room(text: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> tuple[float, float] | None:
    """Where beside a mark its label covers nothing else; the place is then taken. None where there is no room."""
    width, height = 6.4 * len(text), 12.0
    for right, down in ((1, -0.6), (1, 0.6), (-1, -0.6), (-1, 0.6), (0, -1.4), (0, 1.4)):
        at = x + right * (width / 2 + 8), y + down * 12
        box = (*at, width, height)
        inside = at[0] - width / 2 > LEFT and at[0] + width / 2 < WIDTH and TOP <= at[1] <= HEIGHT - BOTTOM
        if text and inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return round(at[0], 1), round(at[1] + 4, 1)
    return None


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Of two boxes, each by its middle, width and height."""
    return abs(a[0] - b[0]) < (a[2] + b[2]) / 2 and abs(a[1] - b[1]) < (a[3] + b[3]) / 2
