"""Stages of the proposal: MOD and soups of the same policies on validation prompts, at equal weights.

Held-out prompts then measure what was chosen, and had no part in it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sipo.decoding import Request, seed_of
from sipo.disk.journal import Journal
from sipo.disk.tables import write_json, write_records
from sipo.methods.registry import built, find
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import ENOUGH, LEVEL, mean_difference
from sipo.records import Response, comparable, points_of, rewards_of
from sipo.report.decision import why_proposed
from sipo.stages.judge import with_rewards
from sipo.stages.sample import named, written
from sipo.stages.trials import trial_rows
from sipo.task import Task


def answer_middle(task: Task, folder: Path, *, method: str, **inputs: Any) -> list[Response]:
    """Validation prompts answered by a method at equal weights, with the same noise for every method."""
    config, n = task.config, len(task.objectives)
    middle = (1 / n,) * n
    aligned = built(find(method), config, inputs)[0].at(middle)
    rows = trial_rows(task, config.evaluate.validation_prompts)
    requests = [
        Request(task.prompt_tokens(row), aligned.mixture, seed_of(config.seed, "trial", row.key, middle))
        for row in rows
    ]
    answers = written(task, list(aligned.adapters), requests, Journal(folder, "answers", task.progress))
    responses = [
        Response(
            method, named(task, middle), row.key, row.text, 0, task.codec.decode(each.tokens), len(each.tokens),
            each.finished, {},
        )
        for row, each in zip(rows, answers, strict=True)
    ]  # fmt: skip
    write_records(folder / "responses.jsonl", responses)
    return responses


def propose(task: Task, answers: Mapping[str, Sequence[Response]], folder: Path) -> dict[str, Any]:
    """Which of MOD and soups, in this order in `answers`, to use: the one above in utility at equal weights or, where
    they are not told apart, soups, since one model writes its answers. With few prompts none of them.

    Writes `proposal.json`.
    """
    mod, soups = answers
    everything = [each for mine in answers.values() for each in mine]
    responses = comparable(with_rewards(task, everything, task.splits.validation)) if everything else []
    found: dict[str, Any] = {"method": None, "other": None, "between": [mod, soups], "prompts": 0}
    if responses:
        n = len(task.objectives)
        points = points_of(responses, task.objectives, [(1 / n,) * n])
        sign_N = signs([each.maximise for each in task.config.objectives])
        utility = {name: (rewards_of(mine, task.objectives)[0] * sign_N).mean(axis=-1) for name, mine in points.items()}
        difference = mean_difference(utility[soups] - utility[mod], float(np.abs([*utility.values()]).max()))
        found |= {"prompts": len(utility[mod])}
        if found["prompts"] >= ENOUGH:
            shown = difference.p < LEVEL
            taken, other = (mod, soups) if shown and difference.value < 0 else (soups, mod)
            sign = 1 if taken == soups else -1
            low, high = sorted(sign * end for end in difference.interval())
            found |= {"method": taken, "other": other, "shown": shown}
            found |= {"difference": sign * difference.value, "interval": [low, high], "p": difference.p}
    write_json(folder / "proposal.json", found)
    task.progress.say(why_proposed(found))
    return found
