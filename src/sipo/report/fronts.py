"""The fronts in numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sipo.pareto.control import least_kept
from sipo.report.measure import CAVEAT, LABELS, measure_of
from sipo.report.parts import Cell, Estimated, Measured, Table, share, shares
from sipo.report.verdict import findings
from sipo.words import quantity

INTERVAL = "95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}interval"


def measures(fronts: Mapping[str, Any]) -> Table:
    """Of every method what is larger when better, with how far sipo is from it where it was run."""
    against = {each.other: each for each in findings(fronts) if each.method == "sipo"}
    columns = ["method", "points", f"mean utility [{INTERVAL}]"]
    columns += [f"sipo less this [{INTERVAL}]", "sipo is"] if against else []
    columns += [f"{covering(fronts['methods'].values())} [{INTERVAL}]", "least range kept"]
    rows: list[list[Cell]] = []
    for name, front in fronts["methods"].items():
        row: list[Cell] = [name, len(front["points"]), Measured(front["utility"], *front["utility_interval"])]
        if against:
            found = against.get(name)
            row += [Measured(found.difference, found.low, found.high), found.word] if found else [None, None]
        rows.append([*row, covered(front), kept(front)])
    return Table(columns, rows)


def covering(found: Iterable[Mapping[str, Any]]) -> str:
    """What a column of hypervolumes is called: of methods, or of their differences."""
    return "hypervolume, estimated" if any("hypervolume_error" in each for each in found) else "hypervolume"


def covered(found: Mapping[str, Any]) -> Measured | Estimated:
    """A hypervolume, or a difference of two, without what noise adds; an estimate where there are many objectives."""
    value, (low, high) = found["hypervolume_corrected"], found["hypervolume_interval"]
    error = found.get("hypervolume_error")
    return Measured(value, low, high) if error is None else Estimated(value, low, high, error)


def kept(front: Mapping[str, Any]) -> str | None:
    """Of the objective whose range a method keeps least of: the share of the start's, beside its hypervolume."""
    least = least_kept(front)
    return f"{least[1]:.0%} of {least[0]}" + (", shrunk" if front["narrow"] else "") if least else None


def in_short(methods: Mapping[str, Any]) -> tuple[str, list[str], list[list[Any]]]:
    """Title, columns and rows of the same for a terminal."""
    rows = [
        [
            *(name, each["utility"], *each["utility_interval"]),
            *(cover.texts() if isinstance(cover, Estimated) else cover),
            kept(each) or "-",
        ]
        for name, each in methods.items()
        for cover in [covered(each)]
    ]
    column = covering(methods.values())
    title = f"mean utility, and {column}, without what noise adds, with 95 % intervals (larger is better)"
    return title, ["method", "utility", "low", "high", column, "low", "high", "least range kept"], rows


def shapes(fronts: Mapping[str, Any]) -> Table:
    """Of every method how far it is from the best front, how much of it is beaten, and how its points lie."""
    rows: list[list[Cell]] = [
        [
            name,
            Measured(front["additive_epsilon"], *front["additive_epsilon_interval"]),
            Measured(front["igd_plus"], *front["igd_plus_interval"]),
            share(round(front["dominated_share"] * len(front["points"])), len(front["points"])),
            front["spacing"],
        ]
        for name, front in fronts["methods"].items()
    ]
    columns = ["method", f"additive epsilon [{INTERVAL}]", f"IGD+ [{INTERVAL}]", "dominated share", "spacing"]
    return Table(columns, rows)


def control(fronts: Mapping[str, Any]) -> Table:
    """Of every method that weights steer, by objective: whether more weight gives more, and how much more."""
    start = fronts["start"]
    rows: list[list[Cell]] = [
        [
            name,
            objective,
            front["control"][objective],
            _range(front, objective),
            *([_kept(front, objective)] * bool(start)),
        ]
        for name, front in fronts["methods"].items()
        for objective in front["ranges"]
        if front["ranges"][objective] is not None
    ]
    columns = ["method", "objective", "Kendall", f"range [{INTERVAL}]", *([f"kept of {start}"] if start else [])]
    return Table(columns, rows, lead=2)


def _range(front: Mapping[str, Any], objective: str) -> Measured:
    return Measured(front["ranges"][objective], *front["ranges_interval"][objective])


def _kept(front: Mapping[str, Any], objective: str) -> str | None:
    known = front["kept"][objective]
    return None if known is None else f"{known:.0%}" + ", shrunk" * (objective in front["narrow"])


def differences(fronts: Mapping[str, Any]) -> Table:
    """Of every two methods, the first less the second."""
    rows: list[list[Cell]] = [
        [
            f"{each.method} less {each.other}",
            Measured(each.difference, each.low, each.high),
            each.p,
            each.detectable,
            each.word,
            each.because or None,
            covered(difference),
        ]
        for each, difference in zip(findings(fronts), fronts["differences"].values(), strict=True)
    ]
    columns = ["methods", f"mean utility [{INTERVAL}]", "p, Holm", "could be seen", "the first is", "because"]
    return Table([*columns, f"{covering(fronts['differences'].values())} [{INTERVAL}]"], rows)


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


def judges(fronts: Mapping[str, Any]) -> list[tuple[str, Table | None]]:
    """Of every objective with a judge what is known of it in words, and the wins over base of one that compares."""
    found = []
    for name, each in fronts.get("judges", {}).items():
        said = f"{name}: {trusted(each)}."
        wins: Table | None = None
        if each.get("wins"):
            longer = "longer" if each["taste"] > 0 else "shorter"
            said += f" Among answers of one method and weight it likes the {longer} better."
            columns = ["method", "weights", f"wins [{INTERVAL}]", f"of like length [{INTERVAL}]", "pairs"]
            columns += [f"at equal length [{INTERVAL}]", f"without its errors [{INTERVAL}]"]
            wins = Table(columns, [_won(row) for row in each["wins"]], lead=2)
        found.append((said, wins))
    return found


def _won(row: Mapping[str, Any]) -> list[Cell]:
    judged, like, equal = (
        None if each is None or each[0] is None else Measured(*each)
        for each in (row["judged"], row["like"], row["equal"])
    )
    corrected = row["corrected"]
    whole = None if corrected is None else "nothing to be said" if corrected[0] is None else Measured(*corrected)
    return [row["method"], shares(row["weights"]), judged, like, row["pairs"], equal, whole]


def trusted(found: Mapping[str, Any]) -> str:
    """How far a judge can be trusted."""
    kin = f", of the policies' own family ({', '.join(found['kin'])})," if found["kin"] else ""
    if not found["labels"]:
        return f"{found['judge']}{kin} could not be held against labels: there are none"
    said = f"{found['judge']}{kin} agrees with {_rate(found['agreement'])} of {quantity(found['labels'], 'label')}"
    if found["first"] is None:
        return said
    return (
        f"{said}; {_rate(found['first'])} of its verdicts went to what it read first (50 % is no liking for a place), "
        f"and {100 * found['contradicting']:.0f} % of the pairs were decided by the order alone"
    )


def _rate(rate: Sequence[float]) -> str:
    value, low, high = rate
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def beside(fronts: Mapping[str, Any]) -> Table | None:
    """Every point by the measure that does not decide, where there is one."""
    found = fronts.get("beside")
    if found is None:
        return None
    names = [each["name"] for each in found["objectives"]]
    rows: list[list[Cell]] = [
        [method, shares(point["weights"]), *(Measured(point["rewards"][n], *point["interval"][n]) for n in names)]
        for method, points in found["methods"].items()
        for point in points
    ]
    columns = [
        f"{each['name']}, {better(each['direction'])} [{INTERVAL}]; "
        + quantity(found["prompts"][each["name"]], "prompt")
        for each in found["objectives"]
    ]
    measure = measure_of(found)
    caption = f"Beside: {measure.heading}." + (f" {CAVEAT}" if measure is LABELS else "")
    return Table(["method", "weights", *columns], rows, caption, lead=2)


def reference_point(fronts: Mapping[str, Any]) -> str:
    """Where hypervolume is measured from, who chose it, and whom it leaves out."""
    point = shares(fronts["reference_point"])
    if not fronts["reference_stored"]:
        return f"{point}, just below the worst point of this run: compare no hypervolume of another run with these"
    left_out = Counter(each["method"] for each in fronts["beyond"])
    said = f"{point}, as configured"
    if left_out:
        parts = ", ".join(f"{count} of {method}" for method, count in left_out.items())
        said += f"; points that are no better than it in some objective add nothing: {parts}"
    return said


def left_out(fronts: Mapping[str, Any]) -> str:
    """What the fronts are not about, since a judge would not have it; nothing where all was judged."""
    if not fronts.get("left_out"):
        return ""
    prompts = f"{fronts['left_out']} of {quantity(fronts['left_out'] + fronts['prompts'], 'held-out prompt')}"
    verb = "is" if fronts["left_out"] == 1 else "are"
    return (
        f"{prompts} {verb} left out for all methods: a judge refused {fronts['refused']} of the responses there. What "
        "is refused is no random part, so the fronts speak for the other prompts alone."
    )


def better(direction: str) -> str:
    return "higher is better" if direction == "maximize" else "lower is better"
