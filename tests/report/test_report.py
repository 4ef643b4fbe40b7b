"""The report's account of the fronts: tables, verdict, looks and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sipo.cli import forms
from sipo.methods.registry import specs
from sipo.pareto.across import across
from sipo.pareto.compare import compare
from sipo.report import fronts as tables
from sipo.report.facts import costs
from sipo.report.looks import looks
from sipo.report.parts import MINUS, NOTHING, Estimated, alike
from sipo.report.plots import attainment_png, front_png
from sipo.report.verdict import findings, lift, verdict
from sipo.report.yields import yields

WEIGHTS = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
FRONT = np.array([[3.0, 9.0], [2.5, 7.0], [1.0, 6.0]])


def fronts(lifts: Mapping[str, float], reference: dict[str, float] | None = None) -> dict[str, Any]:
    """fronts.json of methods that are better than one another by known amounts; base is one point."""
    generator = np.random.default_rng(0)
    rewards = {
        name: (FRONT + np.array([lift, -lift]))[:, None] + generator.normal(size=(1, 80, 2)) * 0.3
        for name, lift in lifts.items()
    }
    if "base" in rewards:
        rewards["base"] = rewards["base"][1]
    found = compare(rewards, WEIGHTS, {"detail": True, "words": False}, reference, times=200)
    for front in found["methods"].values():
        for point in front["points"]:
            point["length"] = 7.0
    objectives = [{"name": "detail", "direction": "maximize"}, {"name": "words", "direction": "minimize"}]
    return {"objectives": objectives, **found}


def test_many_rivals_are_grouped_by_outcome() -> None:
    text = verdict(fronts({"base": -1.0, "soups": 0.0, "mod": 0.0, "lw": -0.5, "modpo": 1.5, "sipo": 0.0}))
    assert "sipo is above base and lw." in text and "sipo is below modpo." in text
    assert "No difference from soups and mod is shown: its interval holds 0; the tests find one of 0." in text
    even = verdict(fronts(dict.fromkeys(["soups", "mod", "lw", "modpo", "sipo-soups", "sipo"], 0.0)))
    assert "No difference from soups, mod, lw, modpo and sipo-soups is shown:" in even


def test_the_verdict_sets_sipo_against_each_other_method() -> None:
    text = verdict(fronts({"soups": 0.0, "mod": 0.5, "sipo": 0.5, "sipo-soups": 1.0}))
    assert "Measured by mean utility on 80 held-out prompts, by paired t tests" in text
    assert "sipo is above soups (difference " in text and "p below .001)" in text
    assert "No difference of sipo and mod is shown: its interval holds 0 (difference " in text
    assert "; the test finds one of 0." in text and " in four of five such runs)" in text
    assert "sipo is below sipo-soups (difference \N{MINUS SIGN}" in text
    assert "From no weight to all of it, it moves detail by " in text and "(mod's by " in text and "noise" not in text
    assert ". mod is" not in text and "another seed" in text


def test_without_sipo_it_states_every_pair_that_differs() -> None:
    text = verdict(fronts({"base": -1.0, "soups": 0.0, "mod": 0.0, "lw": 0.5}))
    assert "5 of the 6 pairs of methods differ as far as is shown." in text
    assert "lw is above base, soups and mod." in text
    assert "mod is above base." in text and "sipo" not in text
    same = verdict(fronts({"soups": 0.0, "mod": 0.0, "lw": 0.0}))
    assert "None of the 3 pairs of methods differs as far as is shown." in same and "the tests find one of 0." in same
    assert "No difference of mod and soups is shown" in verdict(fronts({"soups": 0.0, "mod": 0.0}))
    assert "This run has one method, mod, on 80 held-out prompts." in verdict(fronts({"mod": 0.0}))


def test_what_noise_spreads_is_not_said_to_be_moved() -> None:
    """The range of points that are equal in truth is not 0; and no more is taken off than noise has added."""
    generator = np.random.default_rng(0)
    rewards = {name: generator.normal(size=(3, 60, 2)) + 4 * WEIGHTS[:, None] * [1, 0] for name in ("mod", "sipo")}
    text = verdict(compare(rewards, WEIGHTS, {"tone": True, "words": True}, times=50))
    assert text.count("both no more than noise") == 1 and "both no more than noise)." in text
    one = compare({"mod": rewards["mod"][:, :1], "sipo": rewards["sipo"][:, :1]}, WEIGHTS, {"a": True, "b": True})
    assert "on 1 held-out prompt, " in verdict(one).replace(";", ",") and "1 prompt is fewer than 30" in verdict(one)
    assert "\N{MINUS SIGN}" not in lift(one)


@pytest.mark.parametrize(("limit", "learned"), [(None, 3), (2, 2), (9, 3)])
def test_rows_learned_from_are_no_more_than_realign_takes(limit: int | None, learned: int) -> None:
    rows = [SimpleNamespace(id=str(i), conflicting=lambda _: True) for i in range(5)]
    task = SimpleNamespace(
        splits=SimpleNamespace(train=rows),
        objectives=("a", "b"),
        config=SimpleNamespace(realign=SimpleNamespace(rows=limit)),
    )
    chosen = {str(i): SimpleNamespace(source="sample") for i in range(3)}
    inputs = SimpleNamespace(samples=[], refinements=[], candidates=[], chosen=chosen, filter={"rule": "random"})
    counts = {row[1]: row[2] for row in yields(task, inputs, rows).rows}
    assert counts["rows learned from, for each objective at most"] == learned
    assert counts["rows with a chosen response"] == 3


def test_findings_follow_the_differences() -> None:
    measured = fronts({"soups": 0.0, "sipo": 0.5})
    (found,) = findings(measured)
    front = {name: each["utility"] for name, each in measured["methods"].items()}
    assert found.difference == pytest.approx(front["sipo"] - front["soups"]) == pytest.approx(0.5, abs=0.2)
    assert found.low < found.difference < found.high
    assert (found.method, found.other, found.word) == ("sipo", "soups", "above")


def test_the_page_says_how_far_noise_lifts_hypervolumes() -> None:
    text = lift(fronts({"base": -1.0, "soups": 0.0, "sipo": 0.5}))
    assert "at most 0." in text and "It is not the same for base, of one point" in text
    assert "of one point" not in lift(fronts({"soups": 0.0, "sipo": 0.5}))


@pytest.mark.parametrize("many", [5, 6, 8])
def test_what_is_sampled_is_called_an_estimate_wherever_it_is_shown(many: int) -> None:
    """A hypervolume of more than five objectives, with the digits that its standard error allows; any other as ever."""
    rng, weights, names = np.random.default_rng(0), np.eye(many), [f"o{n}" for n in range(many)]
    rewards = {name: 30 * rng.random((many, 1, many)) + rng.normal(size=(1, 40, many)) for name in ("mod", "sipo")}
    maximise, sampled = dict.fromkeys(names, True), many > 5
    objectives = [{"name": name, "direction": "maximize"} for name in names]
    found = {"objectives": objectives, **compare(rewards, weights, maximise, times=20)}
    seeds = [across([rewards] * count, weights, maximise, times=20) for count in (1, 2)]
    title, columns, rows = tables.in_short(found["methods"])
    assert ("estimated" in title) is ("hypervolume, estimated" in columns) is sampled
    assert all(isinstance(cell, str) is sampled for row in rows for cell in row[4:7])
    assert ("its standard error, " in lift(found)) is sampled
    shown = [tables.measures(found), tables.differences(found)]
    for each in seeds:
        shown += [table for _, table in forms.tables(maximise, {"left_out": 0, "remarks": [], **each})[:2]]
    for table in shown:
        (column,) = [column for column in table.columns if column.startswith("hypervolume")]
        assert ("estimated" in column) is sampled
        cells = [row[list(table.columns).index(column)] for row in table.rows]
        assert cells and all(isinstance(cell, Estimated) is sampled for cell in cells)


@pytest.mark.parametrize("error", [3e-9, 0.0004, 0.02, 0.7, 1.0, 45.0, 30_000.0])
def test_an_estimate_has_the_digits_that_its_error_allows(error: float) -> None:
    for value in np.array([3.21, -81.4, 0.2, 1234.5]) * error:
        texts = Estimated(value, value - 2 * error, value + 2 * error, error).texts()
        unit = 10.0 ** np.floor(np.log10(error))
        numbers = np.array([float(text.replace(",", "").replace(MINUS, "-")) for text in texts])
        assert np.abs(numbers - [value, value - 2 * error, value + 2 * error]).max() <= 1.001 * unit / 2
        assert numbers / unit == pytest.approx(np.round(numbers / unit), abs=1e-6)
    assert Estimated(2.0, 1.0, 3.0, 0.0).texts() == alike(2.0, 1.0, 3.0)


def test_every_number_has_a_column() -> None:
    measured = fronts({"base": -1.0, "soups": 0.0, "sipo": 0.5})
    table = tables.measures(measured)
    assert [column.split(" [")[0] for column in table.columns] == [
        "method", "points", "mean utility", "sipo less this", "sipo is", "hypervolume", "least range kept",
    ]  # fmt: skip
    base, soups, sipo = table.rows
    assert (base[:2], soups[4], sipo[3:5]) == (["base", 1], "above", [None, None])
    assert soups[3].value == pytest.approx(sipo[2].value - soups[2].value)
    without = tables.measures(fronts({"base": -1.0, "soups": 0.0}))
    assert [column.split(" [")[0] for column in without.columns] == [
        "method", "points", "mean utility", "hypervolume", "least range kept",
    ]  # fmt: skip
    assert [str(row[-1]).split(" of ")[0] for row in table.rows] == ["None", "100%", "100%"]

    shapes = tables.shapes(measured)
    assert [column.split(" [")[0] for column in shapes.columns] == [
        "method", "additive epsilon", "IGD+", "dominated share", "spacing",
    ]  # fmt: skip
    rows = {row[0]: row[1:] for row in shapes.rows}
    assert rows["base"][2:] == ["100 %", None], "one point has no spacing"
    assert rows["sipo"][0].value == 0 and rows["sipo"][2] == "0 %"
    control = tables.control(measured)
    steered = {(row[0], row[1]): row[2:] for row in control.rows}
    assert list(steered) == [(name, each) for name in ("soups", "sipo") for each in ("detail", "words")]
    assert steered["soups", "detail"][0] == steered["sipo", "words"][0] == 1, "more weight always gives more"
    assert steered["soups", "detail"][1].value == pytest.approx(2, abs=0.01)
    assert control.columns[-1] == "kept of soups" and steered["sipo", "detail"][2] == "100%"
    for each in (table, shapes, control, tables.differences(measured), tables.points(measured)):
        assert all(len(row) == len(each.columns) for row in each.texts())
    assert [row[0] for row in tables.differences(measured).rows] == [
        "soups less base",
        "sipo less base",
        "sipo less soups",
    ]


def test_the_reference_point_says_where_it_is_from() -> None:
    assert "just below the worst point of this run" in tables.reference_point(fronts({"mod": 0.0}))
    kept = tables.reference_point(fronts({"mod": 0.0}, {"detail": 0.0, "words": 12.0}))
    assert kept == "detail 0 \N{MIDDLE DOT} words 12, as configured"
    beyond = tables.reference_point(fronts({"base": -1.0, "mod": 0.0}, {"detail": 2.0, "words": 8.0}))
    assert beyond.endswith("add nothing: 1 of base, 2 of mod")


def test_looks_are_distinct_and_stay_whatever_is_shown() -> None:
    names = [*(name for name in specs() if name != "policies"), "policy:detail", "policy:words"]
    every = looks(names, ["detail", "words"])
    assert len({(look.color, look.marker) for look in every.values()}) == len(names)
    assert len({(look.color, look.symbol) for look in every.values()}) == len(names)
    lines = [(look.color, look.dashes) for look in every.values() if look.dashes]
    assert len(set(lines)) == len(lines)
    for name, look in every.items():
        assert looks([name], ["detail", "words"]) == {name: look}
    assert looks(["one of mine", "sipo"])["sipo"] == every["sipo"]


SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("dark", [False, True])
def test_fronts_of_many_methods_fit_on_one_picture(dark: bool) -> None:
    lifts = {name: 0.1 * i for i, name in enumerate(name for name in specs() if name != "policies")}
    assert front_png(fronts(lifts | {"policy:detail": 0.0}), dark=dark).startswith(SIGNATURE)


def record(seconds: float, tokens: int, resumed: bool = False) -> dict[str, Any]:
    """A stage.json."""
    rate = tokens / seconds if tokens else None
    numbers = {"seconds": seconds, "tokens": tokens, "tokens_per_second": rate, "peak_memory_gib": 1 + seconds}
    return {"fingerprint": "0", **numbers, "resumed": resumed}


def test_where_the_time_went(tmp_path: Path) -> None:
    stages = {"align": record(2.0, 5000), "score": record(0.5, 0, resumed=True), "filter": record(0.25, 0)}
    ends = [{"time": 60.0 * at, "stage": name, **stages[name]} for at, name in enumerate(stages)]
    replaced = {"time": 0.0, "stage": "align", **record(9.0, 9)}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [*ends, replaced]))
    table = costs(tmp_path, stages)
    assert table.texts() == [
        ["align", "1970-01-01 00:00", "2.0", "5,000", "2,500", "3.00"],
        ["score, resumed", "1970-01-01 00:01", "0.5", "0", NOTHING, "1.50"],
        ["filter", "1970-01-01 00:02", "0.2", "0", NOTHING, "1.25"],
        ["all", NOTHING, "2.8", "5,000", NOTHING, "3.00"],
    ]
    assert "A resumed stage" in table.caption
    assert "resumed" not in costs(tmp_path, {"align": stages["align"]}).caption


@pytest.mark.parametrize("directions", [("maximize", "maximize"), ("maximize", "minimize"), ("minimize", "minimize")])
def test_attainment_is_drawn_in_every_direction(directions: tuple[str, str]) -> None:
    generator = np.random.default_rng(0)
    objectives = [{"name": name, "direction": each} for name, each in zip("xy", directions, strict=True)]
    methods = {
        "base": [generator.normal(size=(1, 2))],
        "mod": [FRONT + generator.normal(size=(3, 2)) for _ in range(4)],
        "sipo": [FRONT + generator.normal(size=(3, 2)) for _ in range(3)],
    }
    pictures = [attainment_png(methods, objectives, dark=dark) for dark in (False, True)]
    assert all(picture.startswith(SIGNATURE) for picture in pictures) and pictures[0] != pictures[1]


def test_small_numbers_are_written_out_and_tiny_ones_are_powers_of_ten() -> None:
    assert alike(0.00867, -0.0001) == ["0.00867", "\N{MINUS SIGN}0.00010"]
    assert alike(0.000867) == ["0.000867"] and alike(0.0000867) == ["8.67e\N{MINUS SIGN}05"]
