"""A comparison of methods as text, Markdown, LaTeX, CSV or JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sipo.plain import markdown_table, plain
from sipo.progress import Progress, say, say_json
from sipo.report.fronts import covered, covering
from sipo.report.measure import CAVEAT, LABELS, REWARDS, measure_of
from sipo.report.parts import Measured, Table, shares
from sipo.words import quantity


def tables(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Titles and tables of a comparison."""
    interval = "95 % interval"
    steered = any(tau is not None for each in found["methods"].values() for tau in each["control"].values())
    fronts = [
        [
            name,
            Measured(each["utility"], *each["utility_interval"]),
            covered(each),
            *(each["control"][objective] for objective in maximise if steered),
        ]
        for name, each in found["methods"].items()
    ]
    kendall = [f"control of {name}" for name in maximise if steered]
    differences = [
        [
            name.replace(" - ", " less "),
            Measured(each["utility"], *each["utility_interval"]),
            each["p"],
            each["detectable"],
            each["is"],
            each["because"] or None,
            covered(each),
            each["over_prompts"],
            each["over_seeds"],
        ]
        for name, each in found["differences"].items()
    ]
    points = [
        [method, at, *(Measured(point["rewards"][n], *point["interval"][n]) for n in maximise)]
        for method, each in found["methods"].items()
        for at, point in zip(_places(each["points"]), each["points"], strict=True)
    ]
    corner = ", ".join(f"{name} {value:.3g}" for name, value in found["reference_point"].items())
    size = f"{found['seeds']} seeds" if found["seeds"] > 1 else f"one seed, {quantity(found['prompts'], 'prompt')}"
    compared_by = ["methods", f"mean utility [{interval}]", "p, Holm", "could be seen", "the first is", "because"]
    variances = ("error over prompts", "deviation over seeds")
    means = [f"{name}, {'larger' if larger else 'smaller'} is better [{interval}]" for name, larger in maximise.items()]
    column = covering(found["methods"].values())
    columns = ["method", f"mean utility [{interval}]", f"{column} [{interval}]", *kendall]
    pairs = Table([*compared_by, f"{column} [{interval}]", *variances], differences)
    return [
        (f"Fronts ({size}; hypervolume above {corner}; control is Kendall's tau)", Table(columns, fronts)),
        *([("Differences of every two methods", pairs)] if differences else []),
        (_points_title(found), Table(["method", "weights", *means], points, lead=2)),
    ]


def _places(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each point's weights. What no weight steers has several points where its answers are drawn: those by number."""
    if len(points) > 1 and all(point["weights"] is None for point in points):
        return [f"draw {number}" for number in range(1, len(points) + 1)]
    return [shares(point["weights"]) for point in points]


def _points_title(found: Mapping[str, Any]) -> str:
    measure = measure_of(found)
    return "Mean rewards at each weight" if measure is REWARDS else f"{measure.heading.capitalize()}, at each weight"


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers do not say by themselves."""
    yield from found["remarks"]
    if found["left_out"]:
        left_out = quantity(found["left_out"], "prompt is", "prompts are")
        yield f"{left_out} left out: not every method has a reward there at every weight"
    if measure_of(found) is LABELS:
        yield CAVEAT
    if found["seeds"] == 1:
        yield "intervals are over prompts; they do not say how another seed of training would have ended"
    else:
        yield (
            "intervals of methods and points are over seeds, on their prompts; those of differences in utility hold "
            "what seeds and prompts leave to chance"
        )


def _as_text(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> None:
    progress = Progress()
    for title, table in tables(maximise, found):
        progress.table(title, table.columns, table.texts())
        progress.say()
    for note in notes(found):
        progress.say(note)


def _as_markdown(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> None:
    for title, table in tables(maximise, found):
        say(f"{title}:\n\n{markdown_table(table.columns, table.texts())}\n")
    for note in notes(found):
        say(note)


SAMPLED = ("hypervolume_error",)
"""What there is of hypervolumes that are estimates alone."""
LATEX = str.maketrans({
    **{mark: f"\\{mark}" for mark in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{NO-BREAK SPACE}": "~",
})  # fmt: skip


def _as_latex(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> None:
    """Tables of booktabs."""

    def row(cells: Sequence[str]) -> str:
        return " & ".join(plain(str(cell)).translate(LATEX) for cell in cells) + r" \\"

    for title, table in tables(maximise, found):
        layout = "l" * table.lead + "r" * (len(table.columns) - table.lead)
        lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", row(table.columns), r"\midrule"]
        print("\n".join([f"% {plain(title)}", *lines, *map(row, table.texts()), r"\bottomrule", r"\end{tabular}", ""]))
    for note in notes(found):
        print(f"% {note}")


def _as_csv(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> None:
    """A number a line: of what, at which weights, which one, and its interval."""
    told = io.StringIO()
    lines = csv.writer(told, lineterminator="\n")
    lines.writerow(["of", "name", "weights", "measure", "value", "low", "high"])
    for name, each in found["methods"].items():
        lines.writerow(["method", name, "", "utility", each["utility"], *each["utility_interval"]])
        ends = each["hypervolume_interval"]
        lines.writerow(["method", name, "", "hypervolume", each["hypervolume_corrected"], *ends])
        lines.writerows(["method", name, "", key, each[key], "", ""] for key in SAMPLED if key in each)
        lines.writerows(["method", name, "", f"control {n}", tau, "", ""] for n, tau in each["control"].items())
        for point in each["points"]:
            at = json.dumps(point["weights"])
            lines.writerows(["point", name, at, n, point["rewards"][n], *point["interval"][n]] for n in maximise)
    for name, each in found["differences"].items():
        lines.writerow(["difference", name, "", "utility", each["utility"], *each["utility_interval"]])
        ends = each["hypervolume_interval"]
        lines.writerow(["difference", name, "", "hypervolume", each["hypervolume_corrected"], *ends])
        keys = (*SAMPLED, "p", "detectable", "is", "because", "over_prompts", "over_seeds")
        lines.writerows(["difference", name, "", key, each[key], "", ""] for key in keys if key in each)
    print(told.getvalue(), end="")


def _as_json(maximise: Mapping[str, bool], found: Mapping[str, Any]) -> None:
    objectives = [{"name": n, "direction": "maximize" if larger else "minimize"} for n, larger in maximise.items()]
    say_json({"objectives": objectives, **found})


FORMS = {"text": _as_text, "markdown": _as_markdown, "latex": _as_latex, "csv": _as_csv, "json": _as_json}
