"""Stage report: one self-contained page and its pictures, from the tables of the stages before.

The model is not asked. Writes `report.html`, `front.png` and `training.png`.
"""

from dataclasses import replace
from pathlib import Path

from sipo.disk.tables import write_text
from sipo.report import answers, fronts, rewards
from sipo.report.cases import cases
from sipo.report.facts import conflicts, costs, facts
from sipo.report.inputs import read_inputs
from sipo.report.looks import looks
from sipo.report.page import Picture, render
from sipo.report.plots import front_png, training_png
from sipo.report.verdict import lift, verdict
from sipo.report.yields import stayed, trust, why_fallen, yields
from sipo.stages.sample import worked_rows
from sipo.task import Task


def report(run: Path, task: Task, folder: Path) -> Path:
    """The page. `run` is read, `folder` written; the model and the device are left alone."""
    config = task.config
    inputs = read_inputs(run, config)
    measured = inputs.fronts
    has_sipo = "realign" in inputs.stages
    rows = worked_rows(task) if has_sipo else []
    inputs = replace(inputs, originals={row.id: task.texts(row) for row in rows})
    true = rewards.true_rewards(config.objectives, rewards.texts_of(rows, inputs), config.execution, task.moment)

    names = ", ".join(task.objectives)
    front = Picture(front_png(measured), front_png(measured, dark=True), f"Fronts of {', '.join(measured['methods'])}")
    training = Picture(
        training_png(inputs.training), training_png(inputs.training, dark=True), f"Training curves of {names}"
    )
    page = render(
        title=config.report.title or f"Preference alignment: {names}",
        verdict=verdict(measured),
        left_out=fronts.left_out(measured),
        has_sipo=has_sipo,
        objectives=task.objectives,
        prompts=measured["prompts"],
        looks=looks(measured["methods"], task.objectives),
        facts=facts(task),
        costs=costs(run, inputs.stages),
        front=front,
        training=training,
        reference_point=fronts.reference_point(measured),
        lift=lift(measured),
        measures=fronts.measures(measured),
        shapes=fronts.shapes(measured),
        differences=fronts.differences(measured),
        points=fronts.points(measured),
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
    (folder / "training.png").write_bytes(training.light)
    write_text(folder / "report.html", page)
    return folder / "report.html"
