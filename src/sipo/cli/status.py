"""`sipo status`: how far a run has come."""

from pathlib import Path

from sipo.disk.tables import read_json
from sipo.progress import Progress
from sipo.runs.status import StageStatus, read_run, stage_statuses


def show_status(run: Path) -> None:
    """Print the run's stages and, once evaluated, its hypervolumes."""
    config = read_run(run)
    stages = stage_statuses(run, config)
    progress = Progress()
    progress.table("", ["stage", "state", "seconds", "finished units"], [_row(stage) for stage in stages])
    if any(stage.name == "evaluate" and stage.state == "done" for stage in stages):
        methods = read_json(run / "evaluate" / "fronts.json")["methods"]
        rows = [[name, front["hypervolume"], *front["hypervolume_interval"]] for name, front in methods.items()]
        progress.say()
        progress.table("hypervolume (larger is better)", ["method", "value", "95 % low", "high"], rows)
    if not all(stage.state == "done" for stage in stages):
        progress.say()
        progress.say(f"`sipo run {run / 'config.yaml'} --run-dir {run}` goes on")


def _row(stage: StageStatus) -> list[str]:
    seconds = "-" if stage.seconds is None else f"{stage.seconds:.0f}"
    units = ", ".join(f"{name} {count}" for name, count in stage.units.items())
    return [stage.name, stage.state, seconds, units or "-"]
