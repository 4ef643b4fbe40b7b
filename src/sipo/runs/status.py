"""What a run's folder holds, told at once: nothing here loads torch or the model."""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sipo.commands import resume, sipo
from sipo.config import Config
from sipo.config.file import load_config
from sipo.declare.parts import CHOICE, CHOSE_NOTHING, FRONTS
from sipo.disk.copies import copy_of, refreshed
from sipo.disk.damage import CONFIG, STAGE, SUBJECT, DamageError, is_run, reading
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.locking import worked_on
from sipo.disk.parts import Part, parts_in
from sipo.disk.run import MOMENT, NOW, PARTIAL, RunFolder, digest_of
from sipo.disk.tables import read_checked
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.distil import distilled, place_of
from sipo.methods.registry import specs
from sipo.places import path_of
from sipo.runs.outputs import Outputs
from sipo.weights import Weight

State = Literal["done", "partial", "stale", "absent", "damaged"]


@dataclass(frozen=True)
class StageStatus:
    name: str
    state: State
    """`partial` was begun and not finished; `stale` was made with other settings or inputs, or by another version
    of sipo; of a `damaged` one a file is not as it was written.
    """
    took: dict[str, Any]
    """What its `stage.json` says of a stage that was finished: seconds, tokens, peak memory."""
    units: dict[str, int]
    """Finished units of the work in progress, by the name of its journal."""
    problem: str = ""
    """Of a damaged stage, in one line."""
    parts: dict[str, str] = field(default_factory=dict)
    """Of a stage whose policies are made each alone, by objective: done, working, begun, stale or absent."""


def check_config(file: Path) -> None:
    """Raise SipoError for a run's own configuration that is not as it was written: cut, it may still make sense."""
    if file.name != CONFIG or not is_run(file.parent):
        return
    with reading(file):
        text = file.read_text(encoding="utf-8")
    try:
        known = read_checked(file.parent / SUBJECT, known_by=CONFIG)
    except DamageError:  # told of where the subject is read
        return
    if known.get(CONFIG, digest_of(text)) != digest_of(text):
        raise DamageError(file, "it is not as it was written")


def read_run(run: Path) -> Config:
    """The configuration that a run was last given. Raises SipoError where there is no run, or a damaged one."""
    run = refreshed(path_of(run))
    if not is_run(run):
        raise SipoError(f"{run}: holds no run; name the folder that `sipo run` printed")
    check_config(run / CONFIG)
    return load_config(run / CONFIG)


def read_subject(run: Path) -> dict[str, Any]:
    """The model, rows and objectives that make this run and not another, as digests and names."""
    known = read_checked(path_of(run) / SUBJECT, known_by=CONFIG)
    return {name: value for name, value in known.items() if name not in (CONFIG, MOMENT)}


def stage_statuses(run: Path, config: Config, name: str | None = None) -> list[StageStatus]:
    """Every stage of the run, or one and all that it is made from, in order; files are compared by their sizes."""
    outputs, about = Outputs(run, config), read_subject(run)
    found: dict[str, StageStatus] = {}
    graph, parts_of = outputs.graph(), cache(lambda: _parts_of(outputs.folder))
    for stage in [*graph.before(graph[name]), graph[name]] if name else graph:
        ready = all(found[each.name].state == "done" for each in stage.needs())
        key = outputs.key(stage, about) if ready else None
        status = _status(outputs.folder, stage.name, key)
        if status.state != "done" and (parts := parts_of().get(stage.name)):
            plan = outputs.plan(key) if key else None
            states = {part.unit: part.state(plan) for part in parts}
            status = replace(status, state="partial", parts=dict.fromkeys(config.names, "absent") | states)
        found[stage.name] = status
    return list(found.values())


@dataclass(frozen=True)
class Distilled:
    """What was distilled in a run."""

    method: str
    """The mixture's."""
    weight: Weight
    stages: list[StageStatus]
    """Its answers, its policy, and what that is worth where there are rewards."""

    @property
    def made(self) -> bool:
        return self.stages[1].state == "done"


def distillations(run: Path, config: Config) -> list[Distilled]:
    """What has come as far as its answers, which tell the weight, in the order of names."""
    outputs, about, found = Outputs(run, config), read_subject(run), list[Distilled]()
    for record in sorted(outputs.path.glob(f"distilled/*/answers/{STAGE}")):
        if copy := outputs.folder.copy:
            copy.fetch(record.parent)
        answers = record.with_name("samples.jsonl")
        with suppress(OSError, ValueError, KeyError, TypeError):
            with answers.open(encoding="utf-8") as lines:
                weights = json.loads(next(lines, ""))["weights"]
            weight = tuple(float(weights[name]) for name in config.names)
            place = f"distilled/{answers.parts[-3]}"
            for method in (name for name in specs() if place_of(name, weight) == place):
                stages = distilled(Graph(config.model_copy(update={"methods": (method,)})), method, weight)
                states = [_status(outputs.folder, each.name, outputs.key(each, about)) for each in stages if each]
                found.append(Distilled(method, weight, states))
    return found


def under_way(run: Path) -> list[str] | None:
    """What processes that work on the run are at, in lines for people; None where there is no such process."""
    copy = copy_of(run)
    if not worked_on(run) and not (copy and copy.held()):
        made = [part for parts in _parts_of(RunFolder(run)).values() for part in parts if part.state() == "working"]
        return [f"{part.stage}: {part.unit} alone" for part in made] or None
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(line) for line in json.loads((Path(run) / NOW).read_text(encoding="utf-8"))["said"]]
    return []


def require(run: Path, config: Config, stage: str) -> None:
    """Raise SipoError, with the way out, unless the stage is done."""
    if stage not in Graph(config):
        methods = ", ".join(config.methods)
        raise SipoError(f"{run}: has no stage `{stage}`, because its methods are {methods}")
    found = stage_statuses(run, config, stage)[-1]
    if found.problem:
        raise SipoError(found.problem)
    again = f"`{sipo(*resume(run))}`"
    if found.state == "stale":
        why = "it was made with other settings or inputs, or by another version of sipo"
        raise SipoError(f"{run}: stage `{stage}` is stale: {why}; {again} makes it anew")
    if found.state != "done":
        raise SipoError(f"{run}: stage `{stage}` is {found.state}, not done; {again} finishes it")


def fronts_of(run: Path, config: Config) -> dict[str, Any] | None:
    """What the run measured; None where that is yet to be done, or was done with other settings or policies."""
    found = stage_statuses(run, config, "compare")[-1]
    if found.problem:
        raise SipoError(found.problem)
    if found.state != "done":
        return None
    measured: dict[str, Any] = Outputs(run, config).read("compare", FRONTS)
    return measured


def remarks_of(run: Path, config: Config) -> list[str]:
    """What the run's answers and numbers do not say by themselves, in sentences."""
    filters = [stage for stage in Graph(config) if CHOICE in stage.writes]
    if not filters or stage_statuses(run, config, filters[-1].name)[-1].state != "done":
        return []
    chosen = Outputs(run, config).of(filters[-1][CHOICE])["chosen"]
    return [] if chosen else [CHOSE_NOTHING]


def _parts_of(folder: RunFolder) -> dict[str, list[Part]]:
    """By stage."""
    found: dict[str, list[Part]] = {}
    for part in parts_in(folder):
        found.setdefault(part.stage, []).append(part)
    return found


def _status(folder: RunFolder, name: str, key: str | None) -> StageStatus:
    """`key` is the one that it should have; None where what it is made from is yet to be made.

    Where something is amiss, a second look: a run beside us may have moved the stage under our eyes.
    """
    with suppress(FileNotFoundError):
        found = _look_at(folder, name, key)
        if found.state != "damaged":
            return found
    return _look_at(folder, name, key)


def _look_at(folder: RunFolder, name: str, key: str | None) -> StageStatus:
    partial = folder.path / PARTIAL / name
    try:
        finished = folder.record(name)
        if key is not None and folder.holds(name, key):
            return StageStatus(name, "done", finished, {})
    except SipoError as problem:
        return StageStatus(name, "damaged", {}, {}, str(problem))
    if partial.is_dir():
        return StageStatus(name, "partial", {}, _units(partial / JOURNAL))
    return StageStatus(name, "stale" if finished else "absent", finished, {})


def _units(journals: Path) -> dict[str, int]:
    return {path.stem: path.read_bytes().count(b"\n") for path in sorted(journals.glob("*.jsonl"))}
