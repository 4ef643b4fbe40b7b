"""Stage report: one self-contained page, and the front as a picture, from the tables of the stages before.

The model is not asked. Writes `report.html` and `front.png`.
"""

from pathlib import Path
from typing import Any

from sipo.data import Row
from sipo.disk.run import RunFolder
from sipo.disk.tables import write_text
from sipo.graph.build import Graph
from sipo.records import Ranking, Response, comparable, points_of, rewards_of
from sipo.report import answers, chart, rewards
from sipo.report import fronts as tables
from sipo.report.cases import cases
from sipo.report.curves import curves
from sipo.report.decision import Decision, decision
from sipo.report.facts import conflicts, costs, facts
from sipo.report.inputs import Inputs
from sipo.report.lengths import lengths
from sipo.report.looks import looks
from sipo.report.measure import measure_of
from sipo.report.pack import ROOM, pack_list
from sipo.report.page import render
from sipo.report.strength import in_words, table
from sipo.report.truth import truth
from sipo.report.use import commands
from sipo.report.verdict import lift, verdict
from sipo.report.yields import chose_nothing, judges, stayed, trust, why_fallen, yields
from sipo.stages.filter import ways_out
from sipo.stages.sample import worked_rows
from sipo.task import Task


def report(
    task: Task,
    fronts: dict[str, Any],
    responses: list[Response],
    training: dict[str, list[dict[str, Any]]],
    folder: Path,
    *,
    ranked: list[Ranking] | None = None,
    choice: dict[str, Any] | None = None,
    **improvement: Any,
) -> Path:
    """The page; the model and the device are left alone. `ranked` is there where held-out labels decide; `choice` and
    `improvement` are of a run with sipo: samples, refinements and candidates; and, where there is one, what is
    proposed.
    """
    from sipo.report.plots import front_png  # which loads matplotlib

    rows = worked_rows(task) if choice is not None else []
    originals = {row.id: task.texts(row) for row in rows}
    inputs = Inputs(fronts, responses, training, ranked or [], originals=originals, filter=choice or {}, **improvement)
    told = _told(task, inputs)
    content = {
        **told,
        **_answered(task, inputs, told["chart"]["place"]),
        **(_improved(task, inputs, rows) if choice is not None else {"improvement": None}),
        **_run(task, inputs),
    }
    (folder / "front.png").write_bytes(front_png(fronts))
    write_text(folder / "report.html", render(**content))
    return folder / "report.html"


def _told(task: Task, inputs: Inputs) -> dict[str, Any]:
    """What the fronts say: the decision, its chart, all numbers, lengths."""
    fronts = inputs.fronts
    points = points_of(comparable(inputs.responses), task.objectives, task.weights)
    told_by = points_of(inputs.ranked, task.objectives, task.weights) if inputs.ranked else points
    measured = {name: rewards_of(mine, task.objectives) for name, mine in told_by.items()}
    weights = [dict(zip(task.objectives, weight, strict=True)) for weight in task.weights]
    found = decision(fronts, measured, weights, inputs.proposal)
    return {
        "title": task.config.report.title or f"Preference alignment: {', '.join(task.objectives)}",
        "decision": found,
        "chart": _chart(fronts, found),
        "commands": commands(task, inputs, found),
        "weights": len(task.weights),
        "objectives": fronts["objectives"],
        "prompts": fronts["prompts"],
        "methods": list(fronts["methods"]),
        "measure": measure_of(fronts),
        "caveats": measure_of(fronts).caveats(fronts),
        "answering": list(points),
        "looks": looks(dict.fromkeys([*fronts["methods"], *points]), task.objectives),
        "verdict": verdict(fronts),
        "left_out": tables.left_out(fronts),
        "reference_point": tables.reference_point(fronts),
        "lift": lift(fronts),
        "measures": tables.measures(fronts),
        "shapes": tables.shapes(fronts),
        "control": tables.control(fronts),
        "differences": tables.differences(fronts),
        "points": tables.points(fronts),
        "judges": tables.judges(fronts),
        "beside": tables.beside(fronts),
        "lengths": lengths(points),
    }


def _chart(fronts: dict[str, Any], found: Decision) -> dict[str, Any]:
    """The front, in the way that fits the number of objectives."""
    focus = found.recommended.method if found.recommended else found.focus
    count = len(fronts["objectives"])
    return {
        "plane": chart.plane(fronts, focus) if count == 2 else None,
        "triangles": chart.triangles(fronts) if count == 3 else [],
        "scales": chart.scales(fronts) if count != 2 else None,
        "focus": focus,
        "place": found.recommended.place if found.recommended else None,
    }


def _answered(task: Task, inputs: Inputs, place: int | None) -> dict[str, Any]:
    """The knob."""
    places = answers.places(inputs.responses)
    rewarded = [each.name for each in task.config.objectives if each.reward is not None]
    every = answers.answered(inputs.responses, rewarded, task.config.report.cases)
    packed, count = pack_list(
        every,
        ROOM["answers"],
        objectives=task.objectives,
        rewarded=rewarded,
        places=[list(weights.values()) for weights in places],
        first=answers.middle(places) if place is None else place,
    )
    prompts = len({each.prompt for each in inputs.responses})
    shown = {"answers_shown": count, "answers_all": prompts, "rewarded": rewarded}
    return {"places": places, "answers": packed, "first": every[0], **shown}


def _improved(task: Task, inputs: Inputs, rows: list[Row]) -> dict[str, Any]:
    """What the improvement let through, and its cases."""
    objectives = task.config.objectives
    true = rewards.true_rewards(objectives, rewards.texts_of(rows, inputs), task.config.execution, task.moment)
    known = truth(rows, inputs, objectives, true)
    records = [each.record() for each in cases(rows, inputs, true, known.chosen, task.config.report.cases)]
    packed, count = pack_list(records, ROOM["cases"])
    return {
        "improvement": {
            "chose_nothing": chose_nothing(inputs, ways_out((inputs.filter or {}).get("no_opinion") or ())),
            "yields": yields(task, inputs, rows),
            "judges": judges(inputs),
            "why_fallen": why_fallen(inputs),
            "trust": trust(inputs, known),
            "by_kind": rewards.by_kind(rows, inputs, objectives, true),
            "cases": packed,
            "cases_shown": count,
            "rows": len(rows),
            "rows_chosen": len(inputs.chosen),
        }
    }


def _run(task: Task, inputs: Inputs) -> dict[str, Any]:
    """What was run, and what it took."""
    return {
        "facts": facts(task),
        "costs": costs(task.config.run_dir, records(task)),
        "conflicts": conflicts(task),
        "strengths": [(in_words(each), table(each)) for each in inputs.fronts.get("strengths", {}).values()],
        "trainings": curves(inputs.training),
        "stayed": stayed(inputs.training, task.config.align.checkpoint == "best"),
    }


def records(task: Task) -> dict[str, dict[str, Any]]:
    """`stage.json` of every stage of the run before this one."""
    folder = RunFolder(task.config.run_dir)
    return {stage.name: folder.record(stage.name) for stage in Graph(task.site.config) if stage.name != "report"}
