"""What a run's folder holds, told at once: nothing here loads torch or the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sipo.config import Config
from sipo.configfile import load_config
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.tables import read_json
from sipo.errors import SipoError
from sipo.runs.folder import MOMENT, STAGE, SUBJECT, RunFolder
from sipo.runs.plan import fingerprints, stages_of

State = Literal["done", "partial", "stale", "absent"]


@dataclass(frozen=True)
class StageStatus:
    name: str
    state: State
    """`partial` was begun and not finished; `stale` was made with other settings or inputs."""
    took: dict[str, Any]
    """What its `stage.json` says of a stage that was finished: seconds, tokens, peak memory."""
    units: dict[str, int]
    """Finished units of the work in progress, by the name of its journal."""


def read_run(run: Path) -> Config:
    """The configuration that a run was last given. Raises SipoError where there is no run."""
    run = Path(run)
    if not (run / SUBJECT).is_file() or not (run / "config.yaml").is_file():
        raise SipoError(f"{run}: holds no run; name the folder that `sipo run` printed in its first line")
    return load_config(run / "config.yaml")


def read_subject(run: Path) -> dict[str, Any]:
    """The model, rows and objectives that make this run and not another, as digests and names."""
    return {name: value for name, value in read_json(Path(run) / SUBJECT).items() if name != MOMENT}


def stage_statuses(run: Path, config: Config) -> list[StageStatus]:
    """Every stage of the run, in order."""
    folder = RunFolder(Path(run))
    wanted = fingerprints(config, read_subject(run))
    return [_status(folder, stage.name, wanted[stage.name]) for stage in stages_of(config)]


def require(run: Path, config: Config, stage: str) -> None:
    """Raise SipoError, with the way out, unless the stage is done."""
    found = {each.name: each.state for each in stage_statuses(run, config)}
    if stage not in found:
        methods = ", ".join(config.methods)
        raise SipoError(f"{run}: has no stage `{stage}`, because its methods are {methods}")
    if found[stage] != "done":
        command = f"sipo run {Path(run) / 'config.yaml'} --run-dir {run}"
        raise SipoError(f"{run}: stage `{stage}` is {found[stage]}, not done; `{command}` finishes it")


def _status(folder: RunFolder, name: str, wanted: str) -> StageStatus:
    record = folder.stage(name) / STAGE
    finished = read_json(record) if record.is_file() else None
    partial = folder.path / ".partial" / name
    if folder.holds(name, wanted):
        return StageStatus(name, "done", finished or {}, {})
    if partial.is_dir():
        return StageStatus(name, "partial", {}, _units(partial / JOURNAL))
    return StageStatus(name, "stale" if finished else "absent", finished or {}, {})


def _units(journals: Path) -> dict[str, int]:
    return {path.stem: path.read_bytes().count(b"\n") for path in sorted(journals.glob("*.jsonl"))}
