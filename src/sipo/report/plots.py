"""The pictures, as PNG in memory; drawn for light pages, or for dark ones."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import combinations
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sipo.looks import Look
from sipo.pareto.indicators import Array, reference_below
from sipo.pareto.seeds import attainment, staircase
from sipo.report.looks import looks

Objective = Mapping[str, str]
"""name, direction"""


def front_png(fronts: Mapping[str, Any], *, dark: bool = False) -> bytes:
    """Every method's points, a panel for each two objectives; better is right and up, whatever the direction."""
    pairs = list(combinations(fronts["objectives"], 2))
    styles = looks(fronts["methods"], [objective["name"] for objective in fronts["objectives"]])
    columns = min(len(pairs), 3)
    rows = ceil(len(pairs) / columns)
    with _ink(dark):
        size = (7.6, 5.4) if len(pairs) == 1 else (4.2 * columns, 3.8 * rows + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, (x, y) in zip(panels, pairs, strict=False):
            _front(panel, fronts["methods"], styles, x, y, alone=len(pairs) == 1)
        for panel in list(panels)[len(pairs) :]:
            panel.set_visible(False)
        _legend(figure, styles)
        return _png(figure)


def attainment_png(
    fronts: Mapping[str, Sequence[Array]], objectives: Sequence[Objective], *, dark: bool = False
) -> bytes:
    """What the methods attain over seeds, in two objectives; `fronts` holds for each method a front [M, 2] a seed.

    The line bounds what at least half of the seeds attain; the shade goes from what all attain to what one does.
    """
    x, y = objectives
    maximise = [each["direction"] == "maximize" for each in objectives]
    styles = looks(fronts)
    corner = reference_below(np.concatenate([front for seeds in fronts.values() for front in seeds]), maximise)
    with _ink(dark):
        figure = Figure(figsize=(7.6, 5.4), layout="constrained")
        panel = figure.subplots()
        for name, seeds in fronts.items():
            look = styles[name]
            worst, median, best = attainment(seeds, maximise, levels=(1.0, 0.5, 1 / len(seeds)))
            shade = np.concatenate([staircase(best, corner), staircase(worst, corner)[::-1]])
            panel.fill(*shade.T, color=look.color, alpha=0.18, linewidth=0, zorder=1)
            panel.plot(*staircase(median, corner).T, color=look.color, linestyle=look.dashes or "-", zorder=2)
            panel.plot(*median.T, look.marker, color=look.color, markersize=_size(look), zorder=3)
        _axes(panel, x, y)
        panel.set_title("better is right and up", fontsize="small", loc="right", color="0.5")
        _legend(figure, styles)
        return _png(figure)


def dots_png(
    values: Mapping[str, Sequence[tuple[float, float, float]]], panels: Sequence[str], *, dark: bool = False
) -> bytes:
    """A panel for each name in `panels`, in it a mark with its interval for each label; (mean, low, high)."""
    with _ink(dark):
        figure = Figure(figsize=(3.8 * len(panels), 0.45 * len(values) + 1.2), layout="constrained")
        for i, (panel, name) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True)
        ):
            for at, three in enumerate(values.values()):
                mean, low, high = three[i]
                panel.hlines(at, low, high, color="#0072B2", linewidth=2)
                panel.plot(mean, at, "o", color="#0072B2")
            panel.set_yticks(range(len(values)), list(values) if i == 0 else [""] * len(values))
            panel.set_ylim(len(values) - 0.5, -0.5)
            panel.set_xlabel(name)
        return _png(figure)


def _front(
    panel: Axes, methods: Mapping[str, Any], styles: Mapping[str, Look], x: Objective, y: Objective, *, alone: bool
) -> None:
    """One panel. Points are joined where only these two objectives have weight, in the order of the weights."""
    for name, front in methods.items():
        look = styles[name]
        line = []
        for point in front["points"]:
            between = _between(point["weights"], x["name"], y["name"])
            if between is not None and point["weights"] is not None:
                line.append((between, _place(point, x, y)))
            _point(panel, point, x, y, look, faint=between is None)
        if len(line) > 1:
            xs, ys = zip(*(place for _, place in sorted(line)), strict=True)
            panel.plot(xs, ys, color=look.color, linestyle=look.dashes or "-", linewidth=1.6, alpha=0.8, zorder=2)
    _axes(panel, x, y)
    if alone:
        panel.set_title("better is right and up", fontsize="small", loc="right", color="0.5")


def _axes(panel: Axes, x: Objective, y: Objective) -> None:
    """Names and directions; an axis on which lower is better runs backwards."""
    for axis, objective in ((panel.xaxis, x), (panel.yaxis, y)):
        maximise = objective["direction"] == "maximize"
        axis.set_label_text(f"{objective['name']} ({'higher' if maximise else 'lower'} is better \N{RIGHTWARDS ARROW})")
        axis.set_inverted(not maximise)


def _between(weights: Mapping[str, float] | None, x: str, y: str) -> float | None:
    """The weight's share of y where x and y have all of it; None where another objective has some."""
    if weights is None:
        return 0.0
    return weights.get(y, 0.0) if abs(weights.get(x, 0.0) + weights.get(y, 0.0) - 1) < 1e-6 else None


def _place(point: Mapping[str, Any], x: Objective, y: Objective) -> tuple[float, float]:
    return point["rewards"][x["name"]], point["rewards"][y["name"]]


def _point(panel: Axes, point: Mapping[str, Any], x: Objective, y: Objective, look: Look, *, faint: bool) -> None:
    """A mark with its intervals; they are drawn as they are, also where they leave out the mean."""
    at = _place(point, x, y)
    bars: dict[str, Any] = {"color": look.color, "alpha": 0.2 if faint else 0.55, "linewidth": 1.1, "zorder": 1}
    panel.hlines(at[1], *point["interval"][x["name"]], **bars)
    panel.vlines(at[0], *point["interval"][y["name"]], **bars)
    panel.plot(*at, look.marker, color=look.color, markersize=_size(look), alpha=0.45 if faint else 1.0, zorder=3)


def _size(look: Look) -> int:
    return {"*": 13, "X": 9, "P": 9}.get(look.marker, 6)


def _legend(figure: Figure, styles: Mapping[str, Look]) -> None:
    handles = [
        Line2D([], [], color=it.color, marker=it.marker, linestyle=it.dashes, markersize=min(_size(it), 11), label=name)
        for name, it in styles.items()
    ]
    rows = ceil(sum(len(name) + 9 for name in styles) / (11 * figure.get_figwidth()))
    figure.legend(handles=handles, loc="outside lower center", ncols=ceil(len(handles) / rows), frameon=False)


def _ink(dark: bool) -> AbstractContextManager[None]:
    """The page's own colours, while the block lasts."""
    text, ground, grid = ("#d7dade", "#171a1e", "#33383f") if dark else ("#23272c", "#ffffff", "#e3e6ea")
    return matplotlib.rc_context(
        {
            "figure.facecolor": ground, "axes.facecolor": ground, "axes.edgecolor": "0.5",
            "text.color": text, "axes.labelcolor": text, "axes.titlecolor": text,
            "xtick.color": text, "ytick.color": text,
            "axes.grid": True, "grid.color": grid, "axes.axisbelow": True,
            "axes.spines.top": False, "axes.spines.right": False,
        }
    )  # fmt: skip


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
