"""`sipo status`: how far a run has come."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sipo.commands import resume, sipo
from sipo.disk.copies import refreshed
from sipo.disk.damage import is_run
from sipo.places import shown
from sipo.progress import Progress, say_json
from sipo.report.fronts import in_short
from sipo.runs.status import StageStatus, distillations, fronts_of, read_run, remarks_of, stage_statuses, under_way

EVERY = 2.0
"""Seconds between two looks of `--watch`."""


def show_status(run: Path, *, as_json: bool = False) -> None:
    """Print the run's stages and, once evaluated, its fronts in numbers."""
    say_json(status_of(run)) if as_json else _show(run, Progress())


def status_of(run: Path) -> dict[str, Any]:
    """For scripts: every stage of the run, what works on it now, and the command that goes on with it."""
    config, now = read_run(run), under_way(run)
    stages = stage_statuses(run, config)
    done = all(stage.state == "done" for stage in stages)
    beside = [asdict(stage) for each in distillations(run, config) for stage in each.stages]
    told = {
        "run": shown(run),
        "done": done,
        "now": now,
        "stages": [asdict(stage) for stage in stages],
        "distilled": beside,
    }
    return {**told, "next": None if done or now is not None else sipo(*resume(run))}


def watch(run: Path) -> None:
    """Show the status anew until nobody works on the run, which may be yet to begin; where output is no
    terminal, what is new of it.
    """
    progress, told = Progress(), ""
    if not refreshed(run).exists():
        progress.say(f"{run}: there is none yet; waits for one to begin, and Ctrl-C ends it")
        while not is_run(refreshed(run)):
            time.sleep(EVERY)
    if (now := under_way(run)) is None:
        _show(run, progress)
        return progress.say("nobody works on it now; where a process still loads its model, ask again")
    while now is not None:
        line = "; ".join(now)
        if progress.console.is_terminal:
            progress.console.clear()
            _show(run, progress)
        elif line != told:
            progress.say(line)
        told = line
        time.sleep(EVERY)
        now = under_way(run)
    if progress.console.is_terminal:
        progress.console.clear()
    _show(run, progress)


def _show(run: Path, progress: Progress) -> None:
    config, now = read_run(run), under_way(run)
    stages = stage_statuses(run, config)
    shown = stages + [stage for each in distillations(run, config) for stage in each.stages]
    progress.table("", ["stage", "state", "seconds", "work"], [_row(stage) for stage in shown])
    evaluated = any(stage.name == "compare" and stage.state == "done" for stage in stages)
    if evaluated and (measured := fronts_of(run, config)):
        progress.say()
        progress.table(*in_short(measured["methods"]))
    for remark in remarks_of(run, config):
        progress.say()
        progress.say(remark)
    for stage in shown:
        if stage.problem:
            progress.say()
            progress.say(stage.problem)
    if now is not None:
        progress.say()
        progress.say("\n".join(["a process is working on it", *(f"  {line}" for line in now)]))
    elif not all(stage.state == "done" for stage in stages):
        progress.say()
        progress.say(f"`{sipo(*resume(run))}` goes on")


def _row(stage: StageStatus) -> list[str]:
    seconds = f"{stage.took['seconds']:.0f}" if stage.took else "-"
    units = ", ".join(f"{name} {count}" for name, count in stage.units.items())
    parts = ", ".join(f"{name} {state}" for name, state in stage.parts.items())
    return [stage.name, stage.state, seconds, parts or units or _work(stage.took) or "-"]


def _work(took: dict[str, Any]) -> str:
    """Tokens, their rate and peak memory of a finished stage."""
    if not took:
        return ""
    rate, resumed = took.get("tokens_per_second"), ["resumed"] if took.get("resumed") else []
    through = [f"{took['tokens']:,} tokens, {rate:,.0f}/s"] if rate else []
    return ", ".join([*through, f"{took['peak_memory_gib']:.2f} GiB", *resumed])
