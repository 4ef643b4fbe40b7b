"""The fronts in numbers."""

from collections.abc import Mapping
from typing import Any

from sipo.report.parts import Measured, Table, shares
from sipo.report.verdict import findings

INTERVAL = "95\N{NO-BREAK SPACE}% interval"


def hypervolumes(fronts: Mapping[str, Any]) -> Table:
    """Of every method, with how far sipo is from it where it was run."""
    differences = {each.other: each for each in findings(fronts)}
    columns = ["method", "points", f"hypervolume [{INTERVAL}]"]
    rows: list[list[Any]] = [
        [name, len(front["points"]), Measured(front["hypervolume"], *front["hypervolume_interval"])]
        for name, front in fronts["methods"].items()
    ]
    if differences:
        columns += [f"sipo less this [{INTERVAL}]", "sipo is"]
        for row in rows:
            found = differences.get(row[0])
            row += [Measured(found.difference, found.low, found.high), found.word] if found else [None, None]
    return Table(columns, rows)


def points(fronts: Mapping[str, Any]) -> Table:
    """Every point of every front: mean true rewards with intervals, and mean length in tokens."""
    names = [objective["name"] for objective in fronts["objectives"]]
    rows = [
        [
            method,
            shares(point["weights"]),
            *(Measured(point["rewards"][name], *point["interval"][name]) for name in names),
            point["length"],
        ]
        for method, front in fronts["methods"].items()
        for point in front["points"]
    ]
    headings = [f"{each['name']}, {better(each['direction'])} [{INTERVAL}]" for each in fronts["objectives"]]
    return Table(["method", "weights", *headings, "tokens"], rows, lead=2)


def reference_point(fronts: Mapping[str, Any]) -> str:
    return shares(fronts["reference_point"])


def better(direction: str) -> str:
    return "higher is better" if direction == "maximize" else "lower is better"
