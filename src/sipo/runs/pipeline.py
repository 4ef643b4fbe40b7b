"""A run from its first unfinished unit to its report."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sipo.config import Config
from sipo.configfile import dump_config
from sipo.disk.damage import DamageError, note
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.errors import SipoError
from sipo.methods.consensus import train_consensus
from sipo.methods.lw import train_lw
from sipo.methods.modpo import train_modpo
from sipo.methods.names import stages_needed
from sipo.methods.raco import train_raco
from sipo.methods.registry import methods_of
from sipo.models.load import find_device
from sipo.plain import command
from sipo.progress import Progress
from sipo.runs.folder import RunFolder
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.peak import peak_bytes, reset_peak
from sipo.runs.plan import Stage, fingerprints, stages_of, subject
from sipo.runs.validate import validate
from sipo.stages.align import align
from sipo.stages.calibrate import calibrate
from sipo.stages.evaluate import evaluate
from sipo.stages.filter import filter as filter_
from sipo.stages.realign import realign
from sipo.stages.refine import refine
from sipo.stages.report import report
from sipo.stages.sample import sample
from sipo.stages.score import score
from sipo.stages.sft import sft
from sipo.task import Task
from sipo.weights import evenly


def run(
    config: Config,
    *,
    start: str | None = None,
    only: str | None = None,
    until: str | None = None,
    quiet: bool = False,
) -> Path:
    """Run every stage that does not hold yet, and return the run's folder.

    `start` makes that stage and all after it anew, and sets what stood there aside; `only` runs a single stage, whose
    inputs must hold; `until` is the last stage to run. A stage that was damaged is set aside, and made anew.
    Raises SipoError before any work where the configuration, the data or the model is at fault.
    """
    if start and only:
        raise SipoError(
            f"--from {start} and --only {only}: give one; --only makes a single stage, whose inputs must hold"
        )
    folder = RunFolder(config.run_dir)
    task = Task(config, Progress(config.run_dir / "metrics.jsonl", quiet=quiet))
    stages = stages_of(config)
    names = [stage.name for stage in stages]
    _known(names, start, only, until)
    about = subject(task)
    wanted = fingerprints(config, about)
    folder.check(about)
    if only:
        _check_inputs(folder, stages, only, wanted)
    validate(task, evaluated=only in (None, "evaluate"))
    asked = [stage for stage in stages if only in (None, stage.name)]
    asked = asked[: [stage.name for stage in asked].index(until) + 1] if until in names and not only else asked
    if folder.path.exists() and not os.access(folder.path, os.W_OK):
        _look_at(task, folder, asked, wanted, start)
    else:
        anew = names[names.index(start) :] if start else []
        _work(task, folder, stages, asked, wanted, about, anew)
    if only in (None, "report") and until in (None, "report"):
        _conclude(task, folder)
    return folder.path


def _work(
    task: Task,
    folder: RunFolder,
    stages: list[Stage],
    asked: list[Stage],
    wanted: dict[str, str],
    about: dict[str, Any],
    anew: list[str],
) -> None:
    """Make the stages hold that are asked for, those of `anew` whether they hold or not."""
    with folder.locked():
        folder.claim(about, dump_config(task.config), task.moment)
        _introduce(task)
        for name in anew:
            folder.set_aside(name)
        for stage in stages:
            if stage in asked:
                _bring_about(task, folder, stage, wanted, stage.name in anew)
            if stage.name == "sft":
                task.stand_on(backbone_of(folder.path, task.config))
            if stage == asked[-1]:
                break


def _look_at(task: Task, folder: RunFolder, asked: list[Stage], wanted: dict[str, str], start: str | None) -> None:
    """A run that cannot be written to may be finished: then there is nothing to do."""
    for stage in asked:
        if start or not folder.holds(stage.name, wanted[stage.name], every_byte=True):
            what = f"stage `{start or stage.name}` is to be made"
            raise SipoError(f"{folder.path}: is read-only, and {what}; make it writable, or work on a copy")
    _introduce(task)
    task.progress.say("finished; the folder is read-only, and nothing is to be done")


def _check_inputs(folder: RunFolder, stages: list[Stage], only: str, wanted: dict[str, str]) -> None:
    """Raise SipoError where a stage that is to be made alone lacks something that it reads."""
    with suppress(DamageError):  # then it is to be made
        if folder.holds(only, wanted[only], every_byte=True):
            return
    if folder.kept(only, wanted[only]):
        return
    known = {stage.name: stage for stage in stages}
    inputs = list(known[only].needs)
    for name in inputs:  # grows by what the inputs were made from, which may be read as well
        try:
            if not folder.holds(name, wanted[name], every_byte=True):
                raise SipoError(f"--only {only}: its input `{name}` does not hold; run without --only")
        except DamageError as damage:
            raise SipoError(f"--only {only}: its input `{name}` is damaged: {damage}") from None
        inputs += [each for each in known[name].needs if each not in inputs]


def _bring_about(task: Task, folder: RunFolder, stage: Stage, wanted: dict[str, str], anew: bool) -> None:
    """Make the stage hold: leave it, bring it back, go on with it, or begin it. `anew`: go on with it or begin it."""
    progress, name = task.progress, stage.name
    if not anew:
        try:
            if folder.holds(name, wanted[name], every_byte=True):
                folder.adopt(name)
                progress.say(f"{name}: holds")
                return
        except DamageError as damage:
            aside = folder.set_aside_damaged(name)
            note(f"{damage.place}: damaged ({damage.why}); {name} is made anew, the damaged one is in {aside}")
        if folder.restore(name, wanted[name]):
            folder.adopt(name)
            progress.say(f"{name}: restored")
            return
    changed = " (its settings or inputs changed)" if folder.stage(name).exists() else ""
    progress.say(f"{name}{' anew' if anew else changed}")
    progress.stage = name
    execution = task.config.execution.model_dump(exclude={"checkpoint_seconds"})
    plan = hashlib.sha256(json.dumps([wanted[name], execution, *(["anew"] if anew else [])]).encode()).hexdigest()[:16]
    work, device = folder.begin(name, plan), find_device(task.config.execution.device)
    resumed = any(file.is_file() and file.stat().st_size for file in (work / JOURNAL).rglob("*"))
    reset_peak(device)
    before, began = _computed(task), time.monotonic()
    own = _execute(task, folder, name, work)
    tokens, seconds = _computed(task) - before if own is None else own, time.monotonic() - began
    numbers = {
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if tokens else None,
        "peak_memory_gib": round(peak_bytes(device) / 2**30, 3),
        "resumed": resumed,  # then the numbers are of this process alone
    }
    folder.finish(name, wanted[name], numbers)
    progress.metric(**numbers)
    rate = f", {tokens / seconds:,.0f} tokens/s" if tokens else ""
    progress.say(f"  {name} took {seconds:.0f} s{rate}")


def _computed(task: Task) -> int:
    """Tokens so far; a stage that needs no model must not load it to hear that there were none."""
    bank = vars(task).get("bank")
    return bank.computed if bank else 0


def _execute(task: Task, folder: RunFolder, name: str, work: Path) -> int | None:
    """Call the stage with what earlier stages wrote. Returns the tokens of one that does not go through the bank."""
    run = Outputs(folder.path, task.objectives)
    match name:
        case "sft":
            tokens: list[int] = []
            sft(task, work, tokens.append)
            return sum(tokens)
        case "align":
            align(task, work)
        case "sample":
            sample(task, run.policies("align"), work)
        case "lw":
            train_lw(task, run.logprobs("align"), work)
        case "modpo":
            train_modpo(task, run.policies("align"), run.logprobs("align"), work)
        case "raco":
            train_raco(task, run.logprobs("align"), work)
        case "consensus":
            train_consensus(task, run.logprobs("align"), work)
        case "calibrate":
            calibrate(task, run.logprobs("align"), work)
        case "refine":
            refine(task, run.policies("align"), run.samples(), work)
        case "score":
            refined = task.config.refine.enabled
            known = run.logprobs("align", *(["refine"] if refined else []))
            score(task, run.policies("align"), run.samples(), run.refinements() if refined else [], known, work)
        case "filter":
            held_out = run.logprobs("calibrate") if task.config.filter.rule == "calibrated" else None
            refinements = run.refinements() if task.config.refine.enabled else []
            filter_(task, run.samples(), refinements, run.logprobs("score"), work, held_out)
        case "realign":
            realign(task, run.policies("align"), run.candidates(), run.logprobs("score"), work)
        case "evaluate":
            config = task.config
            evaluate(task, [each for name in config.methods for each in methods_of(name, run, config)], work)
        case "report":
            report(folder.path, task, work)
    return None


def _known(names: list[str], *asked: str | None) -> None:
    for name in asked:
        if name is not None and name not in names:
            raise SipoError(f"`{name}` is no stage of this run; they are {', '.join(names)}")


def _introduce(task: Task) -> None:
    config, splits, say = task.config, task.splits, task.progress.say
    say(f"run        {config.run_dir}")
    dtype = str(task.backbone.model.dtype).removeprefix("torch.")
    say(f"model      {config.model.path} on {task.backbone.device} in {dtype}")
    for slower in task.bank.routes.said:
        say(f"           {slower}")
    say("objectives " + ", ".join(f"{o.name} ({o.direction})" for o in config.objectives))
    conflicts = sum(row.conflicting(task.objectives) for row in splits.train)
    say(
        f"rows       {len(splits.train)} train ({conflicts} in conflict), "
        f"{len(splits.validation)} validation, {len(splits.test)} test; {len(task.weights)} weights"
    )


def _conclude(task: Task, folder: RunFolder) -> None:
    run = folder.path
    weights = evenly(task.objectives)
    say: Any = task.progress.say
    say()
    say(f"report   {run / 'report' / 'report.html'}")
    say(f"fronts   {run / 'evaluate' / 'fronts.json'}")
    by = [] if "realign" in stages_needed(task.config.methods) else ["--method", "mod"]
    say(f"ask it   {command('sipo', 'generate', run, *by, '--weights', weights, '--prompt', 'Why is the sky blue?')}")
    say(f"take it  {command('sipo', 'export', run, '--weights', weights, '--to', 'soup')}")
    say("         then PeftModel.from_pretrained(base, 'soup'), or vllm serve BASE --lora-modules soup=soup")
