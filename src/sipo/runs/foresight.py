"""How long a run will take on this machine, measured on its own model and rows before it starts; and how far it is."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sipo.declare.stage import Stage
from sipo.declare.work import Work, forwards
from sipo.estimate.pace import SECONDS, Clock, Pace, measured
from sipo.estimate.table import plan_of
from sipo.memory import is_full
from sipo.progress import duration
from sipo.task import Task

SHORT = 60.0
"""A run that a glance finds to be no longer, in seconds, is not measured more closely."""


@dataclass(frozen=True)
class Foresight:
    """What is to be done, at most, without judges' models, pictures and the like."""

    works: Mapping[str, Work]
    """By stage."""
    pace: Pace | None
    """None where it is not this process that does the work, or not by adapters."""
    worth: int = 1
    """Forwards that a training step is worth, of which one is seen to go through the model."""

    @property
    def seconds(self) -> float | None:
        return self.pace.seconds(sum(self.works.values(), Work())) if self.pace else None

    def seen(self, stage: str) -> float:
        """Tokens that will have been counted when the stage is done."""
        work = self.works.get(stage, Work())
        return work.tokens - work.training * (1 - 1 / self.worth)

    def cost(self, stage: str) -> float:
        """In seconds; in tokens where the pace is not known."""
        work = self.works.get(stage, Work())
        return self.pace.seconds(work) if self.pace else work.tokens


CROWDED = 2.0
"""So many programs for each core, in the last minute."""


def foresee(task: Task, stages: Sequence[Stage], clock: Clock = time.perf_counter) -> Foresight:
    """What the stages ask for; how long that takes is said where it is more than short."""
    config = task.config
    plan, _ = plan_of(task)
    works, worth = {stage.name: stage.work(plan) for stage in stages}, forwards(config)
    tokens = sum(work.tokens for work in works.values())
    if not tokens or config.execution.engine in ("vllm", "ray") or config.policies == "full":
        return Foresight(works, None, worth)
    try:
        foreseen = Foresight(works, measured(task, 0.0, clock), worth)
        if (foreseen.seconds or 0) <= SHORT:
            return foreseen
        foreseen = Foresight(works, measured(task, SECONDS, clock), worth)
    except Exception as error:
        if not is_full(error):
            raise
        return Foresight(works, None, worth)  # one row does not fit; a stage that computes such rows will say so
    task.progress.say(f"time       at most {duration(foreseen.seconds or 0)} on this machine, {foreseen.pace}")
    if hint := crowded(torch.get_num_threads() if task.backbone.device.type == "cpu" else 1):
        task.progress.say(f"           {hint}")
    return foreseen


def crowded(threads: int) -> str:
    """What to do where other programs hold the cores: each step of several threads then waits for the last of them.
    Empty where nothing is to be said.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads == 1 or load <= CROWDED * cores:
        return ""
    return f"other programs hold the cores (load {load:.1f} on {cores}); with OMP_NUM_THREADS=1 it goes on beside them"


EARLY = 0.1
"""Of the work: its own pace alone says little before."""


class Course:
    """How far a run has come of all that was foreseen; `computed` gives the tokens through the model so far."""

    def __init__(self, foreseen: Foresight, computed: Callable[[], float], clock: Clock = time.monotonic) -> None:
        self.foreseen, self.computed, self.clock = foreseen, computed, clock
        self.began, self._done, self._stage, self._from = clock(), list[str](), "", 0.0

    def begin(self, stage: str) -> None:
        """The one before it is done."""
        if self._stage:
            self._done.append(self._stage)
        self._stage, self._from = stage, self.computed()

    @property
    def share(self) -> float:
        """Of the work, from 0 to 1. A stage that is done was all that was foreseen of it, which is at most."""
        total = sum(map(self.foreseen.cost, self.foreseen.works))
        here = self.foreseen.seen(self._stage)
        within = min((self.computed() - self._from) / here, 1.0) if here else 0.0
        done = sum(map(self.foreseen.cost, self._done)) + within * self.foreseen.cost(self._stage)
        return min(done / total, 1.0) if total else 1.0

    @property
    def left(self) -> float | None:
        """Seconds: the rest at the pace that the run has kept so far, for which what was foreseen counts as its first
        tenth would. None where it is too early to say.
        """
        share, seconds, foreseen = self.share, self.clock() - self.began, self.foreseen.seconds
        if seconds < SHORT / 2 or share < (EARLY if foreseen is None else 1e-9):
            return None
        known, spent = (0.0, 0.0) if foreseen is None else (EARLY, EARLY * foreseen)
        return (seconds + spent) / (share + known) * (1 - share)

    def __str__(self) -> str:
        tokens = sum(work.tokens for work in self.foreseen.works.values())
        left = f", about {duration(self.left)} left" if self.left else ""
        return f"run {self.share:.0%} of at most {tokens / 1e6:.3g} M tokens{left}"
