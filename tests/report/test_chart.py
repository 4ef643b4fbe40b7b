"""The chart of the front: places, labels, and what is said of every point."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from sipo.pareto.compare import compare
from sipo.report.axes import axis
from sipo.report.chart import HEIGHT, SIDE, WIDTH, plane, scales, triangles
from sipo.weights import simplex_lattice

NAMES = ("detail", "words", "tone", "ease", "wit")


def fronts(n: int, methods: tuple[str, ...] = ("base", "soups", "sipo"), divisions: int = 4) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    weights = np.array(simplex_lattice(n, divisions))
    maximise = {name: i != 1 for i, name in enumerate(NAMES[:n])}
    sign = np.where(list(maximise.values()), 1, -1)
    rewards = {
        name: (3 * weights * sign)[:, None] + generator.normal(size=(1, 20, n)) * 0.2 + i
        for i, name in enumerate(methods)
    }
    found = compare(rewards, weights, maximise, unsteered=["base"], times=20)
    for front in found["methods"].values():
        for point in front["points"]:
            point["length"] = 7.25
    objectives = [{"name": k, "direction": "maximize" if v else "minimize"} for k, v in maximise.items()]
    return {"objectives": objectives, **found}


@pytest.mark.parametrize("maximise", [True, False])
@pytest.mark.parametrize("values", [(0.0, 1.0), (-3.0, -3.0), (0.0, 0.0), (1e-5, 2e-5), (900.0, 12000.0)])
def test_better_values_lie_at_the_end_of_a_scale(maximise: bool, values: tuple[float, float]) -> None:
    scale = axis("x", maximise, values, 10.0, 100.0)
    better, worse = (max(values), min(values)) if maximise else (min(values), max(values))
    assert 10 <= scale.place(worse) <= scale.place(better) <= 100
    ticks = scale.ticks()
    assert ticks and all(10 <= tick.at <= 100 for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks), "labels tell ticks apart"


def test_two_objectives_lie_on_a_plane_where_better_is_right_and_up() -> None:
    found = plane(fronts(2), "sipo")
    assert len(found.marks) == 15
    by = {(mark.method, mark.place): mark for mark in found.marks}
    for first, second in combinations(range(5), 2):  # the first objective's share falls
        assert by["sipo", first].x > by["sipo", second].x and by["sipo", first].y > by["sipo", second].y
    for mark in found.marks:
        assert 0 < mark.x < WIDTH and 0 < mark.y < HEIGHT
        assert min(mark.across) <= mark.x <= max(mark.across) and min(mark.along) <= mark.y <= max(mark.along)
    assert found.lines["base"] == "" and found.lines["sipo"].count("L") == 4
    told = by["sipo", 1].said
    assert told.startswith("sipo at detail 0.75 \N{MIDDLE DOT} words 0.25\ndetail ") and "7.2 tokens" in told
    assert by["base", None].said.startswith("base\n") and not by["base", None].label


def test_labels_cover_neither_marks_nor_each_other_and_the_focus_has_them_first() -> None:
    many = fronts(2, ("base", "soups", "mod", "lw", "modpo", "sipo"), divisions=9)
    found = plane(many, "sipo")
    labelled = [mark for mark in found.marks if mark.label]
    assert any(mark.method == "sipo" for mark in labelled)
    for a, b in combinations(labelled, 2):
        wide = 6.4 * (len(a.label) + len(b.label)) / 2
        assert abs(a.label_at[0] - b.label_at[0]) >= wide - 0.2 or abs(a.label_at[1] - b.label_at[1]) >= 11.8


def test_three_objectives_lie_on_triangles_of_weights() -> None:
    found = triangles(fronts(3))
    assert [each.objective for each in found] == list(NAMES[:3])
    for at, each in enumerate(found):
        assert len(each.marks) == 30, "no weight steers base"
        corner = dict(zip(NAMES, ((x, y) for _, x, y, _ in each.corners), strict=False))[each.objective]
        mine = [mark for mark in each.marks if mark.method == "sipo"]
        best = max(mine, key=lambda mark: mark.level)
        assert (best.x, best.y) == pytest.approx(corner, abs=0.01), f"objective {at} is best with all of the weight"
        assert all(0 <= mark.level <= 1 and 0 <= mark.x <= SIDE for mark in mine)


@pytest.mark.parametrize("n", [3, 5])
def test_more_objectives_are_a_scale_each(n: int) -> None:
    found = scales(fronts(n, divisions=2))
    assert len(found.axes) == n and len({height for _, height in found.axes}) == n
    assert all(mark.path.count("L") == n - 1 for mark in found.marks)
    assert max(height for _, height in found.axes) < found.height
