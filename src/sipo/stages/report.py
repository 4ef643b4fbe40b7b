"""Stage report: one self-contained page and its pictures, from the tables of the stages before.

The model is not asked. Writes `report.html`, `front.png` and `training.png`.
"""

from pathlib import Path
from typing import Any

from sipo.disk.run import RunFolder
from sipo.disk.tables import write_text
from sipo.graph.build import Graph
from sipo.records import Response
from sipo.report import answers, rewards
from sipo.report import fronts as tables
from sipo.report.cases import cases
from sipo.report.facts import conflicts, costs, facts
from sipo.report.inputs import Inputs
from sipo.report.looks import looks
from sipo.report.page import Picture, render
from sipo.report.plots import front_png, training_png
from sipo.report.verdict import lift, verdict
from sipo.report.yields import chose_nothing, stayed, trust, why_fallen, yields
from sipo.stages.realign import WAYS_OUT
from sipo.stages.sample import worked_rows
from sipo.task import Task


def report(
    task: Task,
    fronts: dict[str, Any],
    responses: list[Response],
    training: dict[str, list[dict[str, Any]]],
    folder: Path,
    *,
    choice: dict[str, Any] | None = None,
    **improvement: Any,
) -> Path:
    """The page; the model and the device are left alone. `choice` and `improvement` are of a run with sipo: samples,
    refinements and candidates.
    """
    config, has_sipo = task.config, choice is not None
    rows = worked_rows(task) if has_sipo else []
    originals = {row.id: task.texts(row) for row in rows}
    inputs = Inputs(fronts, responses, training, originals=originals, filter=choice or {}, **improvement)
    measured = inputs.fronts
    true = rewards.true_rewards(config.objectives, rewards.texts_of(rows, inputs), config.execution, task.moment)

    names = ", ".join(task.objectives)
    front = Picture(front_png(measured), front_png(measured, dark=True), f"Fronts of {', '.join(measured['methods'])}")
    curves = Picture(
        training_png(inputs.training), training_png(inputs.training, dark=True), f"Training curves of {names}"
    )
    page = render(
        title=config.report.title or f"Preference alignment: {names}",
        verdict=verdict(measured),
        left_out=tables.left_out(measured),
        chose_nothing=chose_nothing(inputs, WAYS_OUT),
        has_sipo=has_sipo,
        objectives=task.objectives,
        prompts=measured["prompts"],
        looks=looks(measured["methods"], task.objectives),
        facts=facts(task),
        costs=costs(task.config.run_dir, records(task)),
        front=front,
        training=curves,
        reference_point=tables.reference_point(measured),
        lift=lift(measured),
        measures=tables.measures(measured),
        shapes=tables.shapes(measured),
        differences=tables.differences(measured),
        points=tables.points(measured),
        conflicts=conflicts(task),
        yields=yields(task, inputs, rows) if has_sipo else None,
        why_fallen=why_fallen(inputs),
        trust=trust(inputs, rows, config.objectives, true) if has_sipo else "",
        stayed=stayed(inputs.training, config.align.checkpoint == "best"),
        by_kind=rewards.by_kind(rows, inputs, config.objectives, true) if has_sipo else [],
        cases=cases(rows, inputs, true, config.report.cases),
        rows_worked_on=len(rows),
        rows_chosen=len(inputs.chosen),
        answers=answers.answered(inputs.responses, config.report.cases),
        places=answers.places(inputs.responses),
        place=answers.most_balanced(inputs.responses),
    )
    (folder / "front.png").write_bytes(front.light)
    (folder / "training.png").write_bytes(curves.light)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def records(task: Task) -> dict[str, dict[str, Any]]:
    """`stage.json` of every stage of the run before this one."""
    folder = RunFolder(task.config.run_dir)
    return {stage.name: folder.record(stage.name) for stage in Graph(task.site.config) if stage.name != "report"}
