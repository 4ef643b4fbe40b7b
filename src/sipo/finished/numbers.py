"""What was measured of an exported model, for its card: in tables, and in the hub's own form."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

from sipo.config import Config
from sipo.plain import Markdown, code, markdown_table
from sipo.report.fronts import better, left_out
from sipo.report.measure import REWARDS, measure_of
from sipo.settings.model import on_the_hub
from sipo.weights import ROUNDING, Weight

if TYPE_CHECKING:
    from sipo.finished.distil import Distilled

MOST = 25
"""Points of a front that a card shows: those nearest to the model's weight."""


def eval_results(
    fronts: Mapping[str, Any] | None, config: Config, weight: Weight, method: str, distilled: "Distilled | None"
) -> list[EvalResult]:
    """What was measured of this very model, for the header: of its method at its weight, and no other."""
    measure, measured = REWARDS, distilled.mine if distilled else None
    if distilled is None and fronts is not None:
        points = fronts["methods"].get(method, {}).get("points", [])
        here = (p for p in points if p["weights"] is None or _distance(p, config.names, weight) <= ROUNDING)
        measure, measured = measure_of(fronts), next(here, None)
    if measured is None:
        return []
    source, directions = config.data.source, {each.name: each.direction for each in config.objectives}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=source.name if source and on_the_hub(source.name) else "preference-rows",
            dataset_name=config.data.path.name,
            dataset_split="test",
            metric_type=name,
            metric_name=f"{measure.point} of {name} ({better(directions[name] if measure is REWARDS else 'maximize')})",
            metric_value=round(value, 4),
        )
        for name, value in measured["rewards"].items()
    ]


def of_distilled(distilled: "Distilled", config: Config) -> str:
    """How it was made, and its point beside that of what it was made of."""
    of = code(distilled.method)
    made = (
        f"One model that learned to answer as {of}, which mixes several token by token. It began as the soup of the "
        f"same policies, and learned {distilled.answers} answers of {of} at this weight to the training prompts: by "
        "fine-tuning, then by DPO, in which they are preferred to the base model's."
    )
    if distilled.mine is None:
        return f"{made}\n\nWhat it is worth was not measured, since no objective has a reward."
    names, directions = list(distilled.mine["rewards"]), {each.name: each.direction for each in config.objectives}
    columns = ["model", *(f"{name} ({better(directions[name])})" for name in names), "tokens"]
    points = [[name, *_cells(point, names), f"{point['length']:.0f}"] for name, point in distilled.points.items()]
    less = [
        [f"less {name}", *("{:+.3f} [{:+.3f}, {:+.3f}]".format(*each) for each in found.values())]
        for name, found in distilled.differences.items()
    ]
    told = [
        made,
        f"{REWARDS.point} on {distilled.prompts} held-out prompts, with its 95 % bootstrap interval, all at this "
        "weight and with the same noise:",
        markdown_table(columns, points),
        "The distilled model less each other, paired by prompt, with 95 % intervals; positive is better throughout:",
        markdown_table(["distilled", *next(iter(distilled.differences.values()))], less),
    ]
    return "\n\n".join(told)


def numbers(fronts: Mapping[str, Any] | None, config: Config, weight: Weight, method: str) -> str:
    """What the run measured closest to this model."""
    if fronts is None:
        return "The run was not evaluated."
    shown = [name for name in dict.fromkeys(("base", "soups", "sipo", method)) if name in fronts["methods"]]
    lines = [_row(fronts, name, _nearest(fronts, name, config.names, weight)[0]) for name in shown]
    about = (
        f"This model is {code(method)}."
        if method in fronts["methods"]
        else f"This model is {code(method)}, which the run did not measure itself."
    )
    if not lines:
        return about
    measure = measure_of(fronts)
    what = f"{measure.point} on held-out prompts, with its 95 % bootstrap interval, at the nearest weights measured:"
    told = [what, _table(fronts, lines), left_out(fronts), *measure.caveats(fronts), about]
    return "\n\n".join(filter(None, told))


def front(fronts: Mapping[str, Any] | None, config: Config, weight: Weight, method: str) -> list[str]:
    """The same of all weights, of the model's method or, where that was not measured, of soups."""
    name = next((each for each in (method, "soups") if fronts and each in fronts["methods"]), None)
    if fronts is None or name is None or len(fronts["methods"][name]["points"]) < 2:
        return []
    points = fronts["methods"][name]["points"]
    near = _nearest(fronts, name, config.names, weight)[:MOST]
    more = f" (the {MOST} of {len(points)} nearest to this one)" if len(points) > MOST else ""
    lines = [_row(fronts, name, point) for point in points if point in near]
    said = f"Other weights are other exports of the run. {code(name)} at those that were measured{more}:"
    return ["## Front", Markdown(said), _table(fronts, lines)]


def _row(fronts: Mapping[str, Any], name: str, point: Mapping[str, Any]) -> list[str]:
    at = "any" if point["weights"] is None else ", ".join(f"{n} {s:g}" for n, s in point["weights"].items())
    names = [each["name"] for each in fronts["objectives"]]
    return [name, at, *_cells(point, names), f"{point['length']:.0f}"]


def _cells(point: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return ["{:.3f} [{:.3f}, {:.3f}]".format(point["rewards"][name], *point["interval"][name]) for name in names]


def _table(fronts: Mapping[str, Any], lines: Sequence[Sequence[str]]) -> Markdown:
    names = [f"{each['name']} ({better(each['direction'])})" for each in fronts["objectives"]]
    return markdown_table(["method", "weights", *names, "tokens"], lines)


def _nearest(
    fronts: Mapping[str, Any], name: str, objectives: tuple[str, ...], weight: Weight
) -> list[Mapping[str, Any]]:
    return sorted(fronts["methods"][name]["points"], key=lambda point: _distance(point, objectives, weight))


def _distance(point: Mapping[str, Any], names: tuple[str, ...], weight: Weight) -> float:
    shares = point["weights"] or {}
    return sum(abs(shares.get(name, 0.0) - share) for name, share in zip(names, weight, strict=True))
