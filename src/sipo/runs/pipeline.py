"""A run from its first unfinished unit to its report."""

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sipo.bank.kinds import base_of
from sipo.commands import evenly, export, generate, question, resume, serve, sipo
from sipo.config import Config
from sipo.config.file import dump_config
from sipo.declare.stage import Stage
from sipo.disk.copies import refreshed
from sipo.disk.damage import DamageError, note
from sipo.disk.journal import FOLDER as JOURNAL
from sipo.disk.journal import only_unit
from sipo.disk.parts import METRICS, Part, gather, parts_in
from sipo.disk.run import NOW, RunFolder
from sipo.disk.writer import Writer, working
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.key import outside_of, subject_of
from sipo.methods.registry import find, usual
from sipo.models.load import find_device
from sipo.models.quantisation import said_of
from sipo.progress import Progress, duration
from sipo.ranks import joined
from sipo.runs.foresight import SHORT, Course, foresee
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.peak import peak_bytes, reset_peak
from sipo.runs.validate import validate
from sipo.task import Task
from sipo.trackers import Trackers
from sipo.words import listed, quantity


def run(
    config: Config,
    *,
    start: str | None = None,
    only: str | None = None,
    objective: str | None = None,
    until: str | None = None,
    quiet: bool = False,
) -> Path:
    """Make every stage that does not hold yet, and return the run's folder.

    `start` makes that stage, or all in that folder (`judged`), and all that is made from it anew, and sets what stood
    there aside; killed, the same call goes on with what is left. `only` makes a single
    stage, whose inputs must hold, and with `objective` a single policy of it, beside other processes that make others;
    `until` is the last stage to make. A stage that was damaged is set aside, and made
    anew. Raises SipoError before any work where the configuration, the data or the model is at fault.

    >>> sipo.run(sipo.load_config("quickstart.yaml"), quiet=True).name
    'quickstart'
    """
    if start and only:
        raise SipoError(
            f"--from {start} and --only {only}: give one; --only makes a single stage, whose inputs must hold"
        )
    if objective is not None:
        return make_part(config, only, objective, quiet=quiet)
    graph = Graph(config)
    if start is None or not graph.within(start):
        _known(graph, start)
    _known(graph, only, until)
    with working(config.run_dir, config.execution.checkpoint_seconds) as writer:
        task = Task(config, Progress(config.run_dir / "metrics.jsonl", quiet=quiet, steps=True))
        work = Work(task, graph, subject_of(task), writer)
        _bring_about(work, start, only, until)
    _say_next(work, work.left() if only or until else [])
    return work.folder.path


def _bring_about(work: "Work", start: str | None, only: str | None, until: str | None) -> None:
    """What `run` is asked for, of a run that nobody else works on."""
    task, graph, config = work.task, work.graph, work.task.config
    work.folder.check(work.subject)
    if only:
        work.check_inputs(graph[only])
    validate(task, evaluated=only is None or only.startswith(("judged/", "ranked/")))
    asked = [stage for stage in graph if only in (None, stage.name)]
    if until and not only:
        asked = asked[: graph.names.index(until) + 1]
    anew = graph.after(*graph.within(start)) if start else []
    if work.folder.path.exists() and not os.access(work.folder.path, os.W_OK):
        work.look_at(asked, start)
    else:
        with work.folder.locked():
            work.folder.claim(work.subject, dump_config(config), task.moment)
            _introduce(task)
            left = work.folder.left_of(f"{start} {dump_config(config)}", anew)
            for name in left:
                work.folder.set_aside(name)
            make_all(work, asked, left, quiet=task.progress.console.quiet)


def make_all(work: "Work", stages: Sequence[Stage], anew: Collection[str] = (), *, quiet: bool = False) -> None:
    """Make these hold, in order, those that are named `anew` from their beginning; say before how long it will take."""
    task = work.task
    lacking = [] if quiet else [stage for stage in stages if work.lacks(stage)]
    foreseen, began = foresee(task, lacking) if lacking else None, time.monotonic()
    work.course = Course(foreseen, lambda: task.site.computed) if foreseen else None
    with _told(task):
        for stage in stages:
            work.bring_about(stage, stage.name in anew)
            work.folder.made_anew(stage.name)
            if work.writer:
                work.writer.publish()
    if foreseen and foreseen.seconds and foreseen.seconds > SHORT:
        took = duration(time.monotonic() - began)
        task.progress.say(f"took {took}; at most {duration(foreseen.seconds)} were foreseen")


def make_part(config: Config, only: str | None, objective: str, *, quiet: bool = False) -> Path:
    """Make one policy of the stage `only`, beside other processes on the same run that make other ones."""
    if only is None:
        raise SipoError(f"--objective {objective}: makes one policy of a stage; name that with --only")
    graph = Graph(config)
    _known(graph, only)
    stage = graph[only]
    if objective not in config.names:
        raise SipoError(f"--objective {objective}: is none of the run's, which are {', '.join(config.names)}")
    apart = [each.name for each in graph.apart]
    if only not in apart:
        does = "does" if len(apart) == 1 else "do"
        raise SipoError(
            f"--objective {objective}: `{only}` trains no policy for each objective; {listed(apart)} {does}"
        )
    part = Part(RunFolder(refreshed(config.run_dir)), only, objective)
    task = Task(config, Progress(part.place / METRICS, quiet=quiet, steps=True))
    work = Work(task, graph, subject_of(task))
    work.folder.check(work.subject)
    work.check_inputs(stage)
    validate(task, evaluated=False)
    with working(config.run_dir, config.execution.checkpoint_seconds, wait=True), work.folder.locked(wait=True):
        work.folder.claim(work.subject, dump_config(config), task.moment)
    work.make_part(stage, part)
    _say_next(work, work.left(), stage)
    return work.folder.path


class Work:
    """The stages of one run, made or found to hold."""

    def __init__(self, task: Task, graph: Graph, subject: Mapping[str, Any], writer: Writer | None = None) -> None:
        self.task, self.graph, self.subject, self.writer = task, graph, subject, writer
        task.progress.goes_on = writer.go_on if writer else None
        self.outputs = Outputs(task.config.run_dir, task.config)
        self.folder = self.outputs.folder
        self.course: Course | None = None

    def look_at(self, asked: list[Stage], start: str | None) -> None:
        """A run that cannot be written to may be finished: then there is nothing to do."""
        for stage in asked:
            if start or not self._holds(stage):
                what = f"stage `{start or stage.name}` is to be made"
                raise SipoError(f"{self.folder.path}: is read-only, and {what}; make it writable, or work on a copy")
        _introduce(self.task)
        self.task.progress.say("finished; the folder is read-only, and nothing is to be done")

    def check_inputs(self, stage: Stage) -> None:
        """Raise SipoError where a stage that is to be made alone lacks something that it reads."""
        for each in self.graph.before(stage):  # what its inputs were made from may be read as well
            try:
                if not self._holds(each):
                    raise SipoError(f"--only {stage.name}: its input `{each.name}` does not hold; run without --only")
            except DamageError as damage:
                raise SipoError(f"--only {stage.name}: its input `{each.name}` is damaged: {damage}") from None

    def lacks(self, stage: Stage) -> bool:
        """Is it to be made, rather than there or brought back?"""
        try:
            key = self.outputs.key(stage, self.subject)
            return key is None or not (self.folder.holds(stage.name, key) or self.folder.kept(stage.name, key))
        except SipoError:  # told when it is its turn
            return True

    def _holds(self, stage: Stage, *, every_byte: bool = True) -> bool:
        key = self.outputs.key(stage, self.subject)
        return key is not None and self.folder.holds(stage.name, key, every_byte=every_byte)

    def left(self) -> list[Stage]:
        """The stages that do not hold; files are compared by their sizes."""
        found = []
        for stage in self.graph:
            try:
                there = self._holds(stage, every_byte=False)
            except SipoError:  # told when it is its turn
                there = False
            found += [] if there else [stage]
        return found

    def parts_left(self, stage: Stage) -> dict[str, str]:
        """Of a stage that does not hold, the policies that are yet to be made, each with its state (`Part.state`, or
        absent).
        """
        key = self.outputs.key(stage, self.subject)
        plan = self.outputs.plan(key) if key else None
        states = {each.unit: each.state(plan) for each in parts_in(self.folder) if each.stage == stage.name}
        found = {name: states.get(name, "absent") for name in self.task.objectives}
        return {name: state for name, state in found.items() if state != "done"}

    def bring_about(self, stage: Stage, anew: bool) -> None:
        """Make the stage hold: leave it, bring it back, go on with it, or begin it; `anew`, one of the last two."""
        progress, name = self.task.progress, stage.name
        key = self.outputs.key(stage, self.subject)
        assert key is not None, f"{name} comes before what it is made from"
        if not anew:
            try:
                if self.folder.holds(name, key, every_byte=True):
                    progress.say(f"{name}: holds")
                    return
            except DamageError as damage:
                aside = self.folder.set_aside_damaged(name)
                note(f"{damage.place}: damaged ({damage.why}); {name} is made anew, the damaged one is in {aside}")
            if self.folder.restore(name, key):
                progress.say(f"{name}: restored")
                return
        changed = " (its settings or inputs changed)" if self.folder.stage(name).exists() else ""
        if self.course:
            self.course.begin(name)
        progress.stage, progress.whole = name, self.course
        progress.say(f"{name}{' anew' if anew else changed}{f'  ({self.course})' if self.course else ''}")
        self._make(stage, key, anew)

    def make_part(self, stage: Stage, part: Part) -> None:
        """Make one policy of a stage, under a lock of its own."""
        task, name, objective, say = self.task, stage.name, part.unit, self.task.progress.say
        key = self.outputs.key(stage, self.subject)
        assert key is not None  # its inputs hold
        if self.folder.holds(name, key, every_byte=True):
            return say(f"{name}: holds")
        with part.held(task.config.execution.checkpoint_seconds) as writer:
            task.progress.goes_on = writer.go_on if writer else None
            folder = part.folder.begin(part.name, self.outputs.plan(key))
            self._stand(stage)
            task.progress.stage = name
            say(f"{name}: {objective} alone")
            with only_unit(task.objectives.index(objective)):
                stage.make(task=task.of(stage), folder=folder, **self.outputs.inputs(stage), **stage.given)
        say(f"{name}: {objective} is made")

    def _make(self, stage: Stage, key: str, anew: bool) -> None:
        task, name, plan = self.task, stage.name, self.outputs.plan(key, anew)
        folder, device = self.folder.begin(name, plan), find_device(task.config.execution.device)
        publish = self.writer.publish if self.writer else lambda: None
        if parts := gather(self.folder, name, folder, plan, publish):
            task.progress.say(f"  goes on with what was made of {', '.join(parts)}")
        resumed = any(file.is_file() and file.stat().st_size for file in (folder / JOURNAL).rglob("*"))
        self._stand(stage)
        reset_peak(device)
        before, began = task.site.computed, time.monotonic()
        stage.make(task=task.of(stage), folder=folder, **self.outputs.inputs(stage), **stage.given)
        tokens, seconds = task.site.computed - before, time.monotonic() - began
        numbers = {
            "seconds": round(seconds, 2),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if tokens else None,
            "peak_memory_gib": round(peak_bytes(device) / 2**30, 3),
            "resumed": resumed,  # then the numbers are of this process alone
        }
        outside = outside_of(stage, task.config)
        self.folder.finish(name, key, {**numbers, **({"outside": outside} if outside else {})})
        task.progress.metric(**numbers)
        rate = f", {tokens / seconds:,.0f} tokens/s" if tokens else ""
        task.progress.say(f"  {name} took {seconds:.0f} s{rate}")

    def _stand(self, stage: Stage) -> None:
        """Put the model that the run fine-tuned under a stage that is made on it, also where it is made alone."""
        if stage.backbone:
            model = backbone_of(self.folder.path, self.task.config)
            if model != self.task.model:
                self.task.site.stand_on(model)


@contextmanager
def _told(task: Task) -> Iterator[None]:
    """Others hear of the run while it works: whoever asks for its status, and the trackers."""
    progress, config = task.progress, task.config
    trackers = Trackers(config.execution.report_to, config.run_dir, config.model_dump(mode="json"))
    progress.now, progress.tracked = config.run_dir / NOW, trackers.log
    try:
        yield
    finally:
        progress.now, progress.tracked, progress.whole = None, None, None
        (config.run_dir / NOW).unlink(missing_ok=True)
        trackers.finish()


def _known(graph: Graph, *asked: str | None) -> None:
    for name in asked:
        if name is not None and name not in graph:
            raise SipoError(f"`{name}` is no stage of this run; they are {', '.join(graph.names)}")


def _introduce(task: Task) -> None:
    config, splits, say = task.config, task.splits, task.progress.say
    say(f"run        {config.run_dir}")
    dtype = str(task.backbone.model.dtype).removeprefix("torch.")
    say(f"model      {config.model.path} on {task.backbone.device} in {dtype}")
    if ranks := joined():
        say(f"processes  {ranks}")
    for slower in task.bank.routes.said:
        say(f"           {slower}")
    say("objectives " + ", ".join(f"{o.name} ({o.direction})" for o in config.objectives))
    conflicts = sum(row.conflicting(task.objectives) for row in splits.train)
    say(
        f"rows       {len(splits.train)} train ({conflicts} in conflict), "
        f"{len(splits.validation)} validation, {len(splits.test)} test; {quantity(len(task.weights), 'weight')}"
    )


def _say_next(work: Work, left: Sequence[Stage], parted: Stage | None = None) -> None:
    """What to do with a run of which stages are left, or none; of `parted` a policy was just made."""
    run, say = work.folder.path, work.task.progress.say
    if not left:
        return _conclude(work.task, run)
    parts = work.parts_left(parted) if parted and parted in left else {}
    free, busy = ([name for name in parts if (parts[name] == "working") is working] for working in (False, True))
    say()
    if parted and free:
        say(f"`{sipo(*resume(run), '--only', parted.name, '--objective', free[0])}` makes {free[0]}")
    once = f", once {listed(busy)} {'is' if len(busy) == 1 else 'are'} made" if busy else ""
    say(f"`{sipo(*resume(run))}` goes on with {left[0].name}{once}")


def _conclude(task: Task, run: Path) -> None:
    config, weights, say = task.config, evenly(task.objectives), task.progress.say
    prompts = (row.text for row in task.splits.test if len(row.prompt) == 1)
    base = None if config.policies == "full" else base_of(run / "align" / "adapters" / task.objectives[0])
    served = serve("soup", base, config.lora.r * len(weights))
    say()
    say(f"report   {run / 'report' / 'report.html'}")
    say(f"fronts   {run / 'compare' / 'fronts.json'}")
    if len(task.weights) > 1 and any(find(name).steered for name in config.methods):
        say(f"choose   {sipo('choose', run, '--knee')}")
    say(f"ask it   {sipo(*generate(run, weights, question(prompts), _proposed(run, config)))}")
    say(f"take it  {sipo(*export(run, weights, 'soup'))}")
    if rounded := said_of(config.model.quantise):
        say(f"serve it {sipo('serve', run)}")
        say(f"note: {rounded}; `sipo serve` loads it so")
    elif served:
        say(f"serve it {served}")


def _proposed(run: Path, config: Config) -> str | None:
    """The method that validation proposes, where it is not the one that answers anyway."""
    proposal = Graph(config).proposal
    method = Outputs(run, config).of(proposal)["method"] if proposal else None
    return None if method == usual(config.methods) else method
