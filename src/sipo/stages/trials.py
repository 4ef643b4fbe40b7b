"""Stages of `lr: auto`: policies trained at several strengths, what they attain on validation rows, and the best taken.

Where all objectives have rewards of a response alone, every strength answers the same validation prompts, with the same
noise, by MOD at the corners and in the middle of the weights. Else its policies score the validation rows, and what
counts in place of a reward is whether they agree with a row's label.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sipo.bank import Policy
from sipo.data import Row
from sipo.decoding import Generated, Request, at_mod, seed_of
from sipo.disk.journal import Journal
from sipo.disk.tables import read_json, write_json, write_records
from sipo.errors import SipoError
from sipo.finite import NotFiniteError
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points
from sipo.pareto.bootstrap import Array
from sipo.pareto.strength import as_plain, choose_strength, doubts, quadrature
from sipo.records import Response, comparable, points_of, rewards_of
from sipo.report.strength import in_words, table
from sipo.stages.align import align
from sipo.stages.judge import with_rewards
from sipo.stages.realign import realign
from sipo.stages.sample import named, one_row_a_prompt, written
from sipo.task import Task
from sipo.training.policies import rates_of
from sipo.weights import Weight, corners

USUAL = {"lora": 5e-4, "full": 1e-6}
"""Rates of alignment that its strengths are multiples of."""
RATES = "rates.json"
START = "x0"
"""The policies that all strengths begin from."""


@contextmanager
def may_diverge(task: Task, label: str) -> Iterator[list[str]]:
    """Of a strength's numbers one may be none: it is told, and what is given is no longer empty. Those of the start
    may not.
    """
    diverged: list[str] = []
    try:
        yield diverged
    except NotFiniteError as problem:
        if label == START:
            raise
        diverged.append(str(problem))
        task.progress.say(f"warning: strength {label.replace('_', '.')} diverged and is left out: {problem}")


def align_at(task: Task, known: LogprobTable, folder: Path, *, strength: float) -> None:
    """Policies aligned at a strength. Writes what align does, and `rates.json`; no policies where training diverges."""
    rates = dict.fromkeys(task.objectives, strength * USUAL[task.config.policies])
    with may_diverge(task, f"x{strength:g}") as diverged:
        align(task, folder, known=known, rates=rates)
    _finish(folder, rates, diverged)


def realign_at(
    task: Task, folder: Path, *, strength: float, aligned: Mapping[str, Any] | None = None, **inputs: Any
) -> None:
    """Policies realigned at a strength: a multiple of the rates that they were aligned with, which `aligned` knows
    where those were chosen in their turn. Writes what realign does, and `rates.json`; no policies where training
    diverges.
    """
    rates = {name: strength * rate for name, rate in rates_of(task, aligned).items()}
    with may_diverge(task, f"x{strength:g}") as diverged:
        realign(task, folder=folder, rates=rates, **inputs)
    _finish(folder, rates, diverged)


def _finish(folder: Path, rates: Mapping[str, float], diverged: list[str]) -> None:
    if diverged:
        shutil.rmtree(folder / "adapters", ignore_errors=True)  # of objectives that were trained before
    write_json(folder / RATES, rates)


def answer_trial(task: Task, policies: list[Policy], folder: Path, *, label: str, of: str) -> list[Response]:
    """Validation prompts answered by MOD over the policies, with the same noise for every strength; nothing where the
    strength diverged.
    """
    config = task.config
    rows = trial_rows(task, getattr(config, of).trial_prompts)
    plan = [(row, weight) for weight in trial_weights(len(task.objectives)) for row in rows]
    requests = [
        Request(task.prompt_tokens(row), at_mod(weight), seed_of(config.seed, "trial", row.key, weight))
        for row, weight in plan
    ]
    answers: list[Generated] = []
    if policies:
        with may_diverge(task, label):
            answers = written(task, policies, requests, Journal(folder, "answers", task.progress))
    responses = [
        Response(
            label, named(task, weight), row.key, row.text, 0, task.codec.decode(each.tokens), len(each.tokens),
            each.finished, {},
        )
        for (row, weight), each in zip(plan if answers else (), answers, strict=True)
    ]  # fmt: skip
    write_records(folder / "responses.jsonl", responses)
    return responses


def score_trial(task: Task, policies: list[Policy], known: LogprobTable, folder: Path, *, label: str) -> LogprobTable:
    """The validation rows under the policies; `known` holds the reference's log-probabilities of them. An empty table
    where the strength diverged.
    """
    groups = [task.group(row) for row in task.splits.validation]
    scores, found = LogprobTable(), LogprobTable()
    for group in groups:
        scores.put(REFERENCE, group, known.of(group, [REFERENCE])[:, 0])
    if policies:
        with may_diverge(task, label), task.engine() as engine:
            journal = Journal(folder, "validation", task.progress)
            scores.fill(engine, task.span(policies), groups, policy_points(task.objectives), journal)
            found = scores
    found.write(folder / "logprobs.parquet")
    return found


def take(
    task: Task,
    trained: Mapping[str, Path],
    shown: Mapping[str, Any],
    folder: Path,
    *,
    of: str,
    known: LogprobTable | None = None,
) -> dict[str, Any]:
    """The strength of the section `of` that is best by `choose_strength`, as in `strength.json`; its policies are the
    stage's own.

    `trained` names the folder of each strength, `shown` has its answers or its log-probabilities, none where it
    diverged; those of the start as `x0` where range is to be kept. Raises SipoError where every strength diverged.
    """
    settings = getattr(task.config, of)
    shown = {label: each for label, each in shown.items() if len(each)}
    if not any(label in shown for label in trained):
        names = ", ".join(f"x{each:g}" for each in settings.strengths)
        raise SipoError(f"{of}.lr: auto: training diverged at {names}; write smaller {of}.strengths")
    measured = all(objective.scores_alone for objective in task.config.objectives)
    attained = _judged(task, shown) if measured else _agreed(task, shown)
    maximise = {each.name: each.maximise or not measured for each in task.config.objectives}
    strengths = dict(zip(trained, settings.strengths, strict=True))
    diverged = [strength for label, strength in strengths.items() if label not in shown]
    keep = settings.keep_range if START in shown else 0.0
    choice = choose_strength(
        {strength: attained[label] for label, strength in strengths.items() if label in shown},
        attained.get(START),
        np.array(trial_weights(len(task.objectives))),
        quadrature(np.array(task.weights)),
        maximise,
        keep,
        task.config.seed,
    )
    labels = {strength: label for label, strength in strengths.items()}
    won = trained[labels[choice.chosen]]
    told = {
        "of": of,
        "measure": "utility" if measured else "preference accuracy",
        "lr": read_json(won / RATES),
        **as_plain(choice, keep),
        "diverged": diverged,
        "doubts": doubts(choice, keep, f"{of}.strengths", diverged),
    }
    write_json(folder / "strength.json", told)
    shutil.copytree(won / "adapters", folder / "adapters", copy_function=_link)
    shutil.copy2(won / "training.jsonl", folder / "training.jsonl")
    if known is not None:
        known.write(folder / "logprobs.parquet")
    tried = table(told)
    task.progress.table(tried.caption, tried.columns, tried.texts())
    task.progress.say(in_words({**told, "doubts": []}))
    for doubt in told["doubts"]:
        task.progress.say(f"warning: {doubt}")
    return told


def trial_rows(task: Task, limit: int) -> list[Row]:
    """One row for each validation prompt, a seeded choice of at most so many."""
    rows = one_row_a_prompt(task.splits.validation)
    rows.sort(key=lambda row: seed_of(task.config.seed, "trial", row.key))
    return rows[:limit]


def trial_weights(n: int) -> list[Weight]:
    """The corners, and the middle: 2 n models' tokens a prompt."""
    return [*corners(n), (1 / n,) * n]


def _judged(task: Task, shown: Mapping[str, Sequence[Response]]) -> dict[str, Array]:
    """[M, P, N] true rewards of every strength, without prompts of which a judge refused an answer."""
    answers = [each for responses in shown.values() for each in responses]
    responses = comparable(with_rewards(task, answers, task.splits.validation))
    if not responses:
        raise SipoError(
            "lr: auto: a judge refused an answer to every validation prompt; ask another judge, or write lr"
        )
    points = points_of(responses, task.objectives, trial_weights(len(task.objectives)))
    return {label: rewards_of(mine, task.objectives) for label, mine in points.items()}


def _agreed(task: Task, shown: Mapping[str, LogprobTable]) -> dict[str, Array]:
    """[M, P, N]: 1 where what the weights say of a row's two responses agrees with the objective's label, 0 where not,
    and .5 without an opinion or a label. At weight w it is sum_i w_i (log pi_i - log pi_ref).
    """
    rows, names = task.splits.validation, task.objectives
    weights_M_N = np.array(trial_weights(len(names)))
    labels_P_N = np.array([[row.sign(name) for name in names] for row in rows], dtype=float)
    found = {}
    for label, scores in shown.items():
        ratios_P_2_N = np.stack([scores.logratios(task.group(row), list(policy_points(names))) for row in rows])
        says_M_P = weights_M_N @ (ratios_P_2_N[:, 1] - ratios_P_2_N[:, 0]).T
        found[label] = (1 + np.sign(says_M_P)[..., None] * labels_P_N) / 2
    return found


def _link(path: str, to: str) -> None:
    """Whole models are large, and nothing that is finished is written to again."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copy2(path, to)
