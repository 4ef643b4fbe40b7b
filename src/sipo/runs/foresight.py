"""How long a run will take on this machine, said before it starts: measured on its own model and rows."""

import time
from collections.abc import Sequence

from sipo.declare.stage import Stage
from sipo.declare.work import Work
from sipo.estimate.pace import SECONDS, Clock, measured
from sipo.estimate.table import plan_of
from sipo.task import Task

SHORT = 60.0
"""A run that a glance finds to be no longer, in seconds, is not measured more closely."""


def foresee(task: Task, stages: Sequence[Stage], clock: Clock = time.perf_counter) -> float | None:
    """The seconds that the stages take at most, without judges' models, pictures and the like; None where they ask no
    model, or what asks it is not this process's kind of work.
    """
    config = task.config
    if config.execution.engine == "vllm" or config.policies == "full":
        return None
    plan, _ = plan_of(task)
    work = sum((stage.work(plan) for stage in stages), Work())
    if not work.tokens:
        return None
    glance = measured(task, 0.0, clock).seconds(work)
    if glance <= SHORT:
        return glance
    pace = measured(task, SECONDS, clock)
    seconds = pace.seconds(work)
    task.progress.say(f"time       at most {spelled(seconds)} on this machine, {pace}")
    return seconds


def spelled(seconds: float) -> str:
    """A time in words, as exact as an estimate is."""
    if seconds < 60:
        return "a minute"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
