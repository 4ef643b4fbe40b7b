"""What `lr: auto` tried and took, from `strengths` in `fronts.json`: `strength.json` of each stage that chose."""

from collections.abc import Iterable, Mapping
from typing import Any

from sipo.report.parts import Cell, Measured, Table, shares
from sipo.words import quantity


def in_words(told: Mapping[str, Any]) -> str:
    """One sentence, and what is to be known of it."""
    tried = _named(each["strength"] for each in told["trials"])
    diverged = told.get("diverged", [])
    rates = set(told["lr"].values())
    rate = f"{rates.pop():.3g}" if len(rates) == 1 else shares(told["lr"])
    said = (
        f"{told['of']} was tried at {tried} on {_units(told)} that no test sees; x{told['chosen']:g} (lr {rate}) is "
        f"taken, {_why(told)}."
    )
    if diverged:
        said += f" At {_named(diverged)} training diverged, and brought nothing to compare."
    return " ".join([said, *(f"{doubt[0].upper()}{doubt[1:]}." for doubt in told["doubts"])])


def _why(told: Mapping[str, Any]) -> str:
    if len(told["trials"]) > 1 and not any(_attained(each) != _attained(told["trials"][0]) for each in told["trials"]):
        return "the weakest, as all of them attain the same"
    largest = f"of the largest mean {told['measure']}"
    if told["keep_range"] is None:
        return largest
    if not any(each["keeps"] for each in told["trials"]):
        return "the one that keeps most of the range"
    return f"{largest} among those that keep {told['keep_range']:.0%} of the range"


def _attained(trial: Mapping[str, Any]) -> tuple[Any, ...]:
    return trial["utility"], trial["utility_interval"], trial["ranges"], trial["ranges_interval"]


def table(told: Mapping[str, Any]) -> Table:
    """Every strength; x0 are the policies that realignment begins from."""
    start = told["start"]
    tried = [*([{"strength": 0.0, **start}] if start else []), *told["trials"]]
    names = list(tried[0]["ranges"])
    columns = ["strength", told["measure"], *(["gain"] if start else []), *(f"range of {name}" for name in names)]
    rows: list[list[Cell]] = []
    for each in tried:
        row: list[Cell] = [f"x{each['strength']:g}", Measured(each["utility"], *each["utility_interval"])]
        if start:
            row.append(Measured(each["gain"], *each["gain_interval"]) if "gain" in each else None)
        row += [Measured(each["ranges"][name], *each["ranges_interval"][name]) for name in names]
        if start:
            row += [None if share is None else f"{share:.0%}" for share in each["kept"].values()]
        rows.append(row)
    rows += [[f"x{each:g}", "diverged", *[None] * (len(rows[0]) - 2)] for each in told.get("diverged", [])]
    columns += [f"{name} kept" for name in names] if start else []
    return Table(columns, rows, caption=f"Strengths of {told['of']} on {_units(told)}, with 95 % intervals")


def _named(strengths: Iterable[float]) -> str:
    return ", ".join(f"x{each:g}" for each in strengths)


def _units(told: Mapping[str, Any]) -> str:
    return quantity(told["prompts"], f"validation {'prompt' if told['measure'] == 'utility' else 'row'}")
