"""A run from its first unfinished unit to its report."""

import hashlib
import json
import resource
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sipo.bank import Adapter
from sipo.config import Config
from sipo.configfile import dump_config
from sipo.disk.tables import read_records, write_text
from sipo.errors import SipoError
from sipo.logprobs.table import LogprobTable
from sipo.methods import Method, base_model, mod, sipo, soups
from sipo.progress import Progress
from sipo.records import Candidate, Refinement, Sample
from sipo.runs.folder import RunFolder
from sipo.runs.plan import Stage, fingerprints, stages_of, subject
from sipo.runs.validate import validate
from sipo.stages.align import align, read_policies
from sipo.stages.evaluate import evaluate
from sipo.stages.filter import filter as filter_
from sipo.stages.realign import realign
from sipo.stages.refine import refine
from sipo.stages.report import report
from sipo.stages.sample import sample
from sipo.task import Task


def run(config: Config, *, start: str | None = None, only: str | None = None, quiet: bool = False) -> Path:
    """Run every stage that does not hold yet, and return the run's folder.

    `start` makes that stage and all after it anew; `only` runs a single stage, whose inputs must hold.
    Raises SipoError before any work where the configuration, the data or the model is at fault.
    """
    folder = RunFolder(config.run_dir)
    task = Task(config, Progress(config.run_dir / "metrics.jsonl", quiet=quiet))
    stages = stages_of(config)
    _known([stage.name for stage in stages], start, only)
    about = subject(task)
    folder.check(about)
    validate(task, evaluated=only in (None, "evaluate"))
    folder.claim(about)
    with folder.locked():
        write_text(folder.path / "config.yaml", dump_config(config))
        _introduce(task)
        wanted = fingerprints(config, about)
        if start:
            for stage in stages[[stage.name for stage in stages].index(start) :]:
                folder.discard(stage.name)
        for stage in stages:
            if only and stage.name != only:
                continue
            _bring_about(task, folder, stage, wanted)
    if only is None or only == "report":
        _conclude(task, folder)
    return folder.path


def _bring_about(task: Task, folder: RunFolder, stage: Stage, wanted: dict[str, str]) -> None:
    """Make the stage hold: leave it, bring it back, go on with it, or begin it."""
    progress, name = task.progress, stage.name
    if folder.holds(name, wanted[name]):
        progress.say(f"{name}: holds")
        return
    if folder.restore(name, wanted[name]):
        progress.say(f"{name}: restored")
        return
    for needed in stage.needs:
        if not folder.holds(needed, wanted[needed]):
            raise SipoError(f"--only {name}: its input `{needed}` does not hold; run without --only")
    changed = " (its settings or inputs changed)" if folder.stage(name).exists() else ""
    progress.say(f"{name}{changed}")
    progress.stage = name
    execution = task.config.execution.model_dump(exclude={"checkpoint_seconds"})
    plan = hashlib.sha256(json.dumps([wanted[name], execution]).encode()).hexdigest()[:16]
    began = time.monotonic()
    _execute(task, folder, name, folder.begin(name, plan))
    numbers = {"seconds": round(time.monotonic() - began, 2), "peak_memory_gib": round(peak_memory_gib(), 3)}
    folder.finish(name, wanted[name], numbers)
    progress.metric(**numbers)
    progress.say(f"  {name} took {numbers['seconds']:.0f} s")


def _execute(task: Task, folder: RunFolder, name: str, work: Path) -> None:
    """Call the stage with what earlier stages wrote."""
    run = Outputs(folder.path, task.objectives)
    match name:
        case "align":
            align(task, work)
        case "sample":
            sample(task, run.policies("align"), work)
        case "refine":
            refine(task, run.policies("align"), run.samples(), work)
        case "filter":
            known = run.logprobs("align", "refine")
            filter_(task, run.policies("align"), run.samples(), run.refinements(), known, work)
        case "realign":
            realign(task, run.policies("align"), run.candidates(), run.logprobs("filter"), work)
        case "evaluate":
            evaluate(task, run.methods(task.config.evaluate.methods), work)
        case "report":
            report(folder.path, task, work)


class Outputs:
    """What the stages of a run wrote, read back as what they returned."""

    def __init__(self, path: Path, objectives: Sequence[str]) -> None:
        self.path = path
        self.objectives = objectives

    @cache  # noqa: B019 (lives as long as the stage that asks)
    def policies(self, stage: str) -> list[Adapter]:
        return read_policies(self.path / stage, self.objectives)

    def samples(self) -> list[Sample]:
        return read_records(self.path / "sample" / "samples.jsonl", Sample)

    def refinements(self) -> list[Refinement]:
        return read_records(self.path / "refine" / "refinements.jsonl", Refinement)

    def candidates(self) -> list[Candidate]:
        return read_records(self.path / "filter" / "candidates.jsonl", Candidate)

    def logprobs(self, *stages: str) -> LogprobTable:
        table = LogprobTable()
        for stage in stages:
            table.read(self.path / stage / "logprobs.parquet")
        return table

    def methods(self, names: Sequence[str]) -> list[Method]:
        return [self.method(name) for name in names]

    def method(self, name: str) -> Method:
        match name:
            case "base":
                return base_model(self.policies("align"))
            case "soups":
                return soups(self.policies("align"))
            case "mod":
                return mod(self.policies("align"))
            case "sipo":
                return sipo(self.policies("realign"))
        raise SipoError(f"`{name}` is no method; they are base, soups, mod, sipo")


def peak_memory_gib() -> float:
    """The most this process has held, in GiB: on the GPU where it works there, else in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _known(names: list[str], *asked: str | None) -> None:
    for name in asked:
        if name is not None and name not in names:
            raise SipoError(f"`{name}` is no stage of this run; they are {', '.join(names)}")


def _introduce(task: Task) -> None:
    config, splits, say = task.config, task.splits, task.progress.say
    say(f"run        {config.run_dir}")
    dtype = str(task.backbone.model.dtype).removeprefix("torch.")
    say(f"model      {config.model.path} on {task.backbone.device} in {dtype}")
    say("objectives " + ", ".join(f"{o.name} ({o.direction})" for o in config.objectives))
    conflicts = sum(row.conflicting(task.objectives) for row in splits.train)
    say(
        f"rows       {len(splits.train)} train ({conflicts} in conflict), "
        f"{len(splits.validation)} validation, {len(splits.test)} test; {len(task.weights)} weights"
    )


def _conclude(task: Task, folder: RunFolder) -> None:
    run = folder.path
    share = 1 / len(task.objectives)
    weights = ",".join(f"{name}={share:.6g}" for name in task.objectives)
    say: Any = task.progress.say
    say()
    say(f"report   {run / 'report' / 'report.html'}")
    say(f"fronts   {run / 'evaluate' / 'fronts.json'}")
    say(f"ask it   sipo generate {run} --weights {weights} --prompt 'Why is the sky blue?'")
    say(f"take it  sipo export {run} --weights {weights} --to soup")
    say("         then PeftModel.from_pretrained(base, 'soup'), or vllm serve BASE --lora-modules soup=soup")
