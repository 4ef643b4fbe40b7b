"""Stage 4, filter: keep what is better than both originals for every judge (SIPO, Eq. 6 and 7).

Judges are the implicit rewards of the N policies and of the soups at the other weights; a candidate must be
strictly better by all of them, and of several the one with the best mean is y_c. Samples compete with the
rewrites that were kept. Writes `candidates.jsonl` (every candidate, its scores, why it fell) and
`logprobs.parquet`.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sipo.bank import Adapter
from sipo.data import Row
from sipo.disk.tables import write_records
from sipo.logprobs.packing import Group
from sipo.logprobs.score import Point
from sipo.logprobs.table import REFERENCE, LogprobTable, policy_points, soup_at
from sipo.pareto.dominance import choose, reasons
from sipo.records import Candidate, Refinement, Sample
from sipo.stages.sample import conflicting_rows
from sipo.task import Task
from sipo.training.losses import implicit_rewards
from sipo.weights import is_corner

CHOSEN = "chosen"


def filter(
    task: Task,
    policies: list[Adapter],
    samples: list[Sample],
    refinements: list[Refinement],
    known: LogprobTable,
    folder: Path,
) -> list[Candidate]:
    """Every candidate with its scores and fate. `known` holds what earlier stages scored."""
    rows = conflicting_rows(task)
    pool = _pool(samples, refinements)
    judges = judging_points(task)
    groups = {row.id: _group(task, row, pool.get(row.key, [])) for row in rows}
    zero = (0.0,) * len(task.objectives)
    with task.bank.mounted(policies):
        known.fill(
            task.bank,
            groups.values(),
            {REFERENCE: zero, **judges},
            folder=folder,
            label="score",
            token_budget=task.config.execution.score_tokens,
            progress=task.progress,
        )
    known.write(folder / "logprobs.parquet")
    candidates = [each for row in rows for each in _judge(task, row, pool.get(row.key, []), list(judges), known)]
    write_records(folder / "candidates.jsonl", candidates)
    chosen = [each for each in candidates if each.fate == CHOSEN]
    sources = Counter(each.source for each in chosen)
    task.progress.table(
        "Pareto-optimal responses",
        ["rows", "candidates", "rows with one", "samples chosen", "rewrites chosen"],
        [[len(rows), len(candidates), len(chosen), sources["sample"], sources["rewrite"]]],
    )
    return candidates


def judging_points(task: Task) -> dict[str, Point]:
    """The judges of Eq. 6: the policies, and the soups at the weights that are no corner."""
    soups = {soup_at(weight): weight for weight in task.weights if not is_corner(weight)}
    return {**policy_points(task.objectives), **soups}


def chosen_responses(candidates: list[Candidate]) -> dict[str, tuple[int, ...]]:
    """y_c as token ids, by row id."""
    return {each.row: tuple(each.tokens) for each in candidates if each.fate == CHOSEN}


Contender = tuple[str, dict[str, float], int, str, tuple[int, ...]]
"""source, weights, index, response, tokens"""


def _pool(samples: list[Sample], refinements: list[Refinement]) -> dict[str, list[Contender]]:
    """The contenders for each prompt, none twice; a rewrite that was not kept does not compete."""
    pool: dict[str, dict[tuple[int, ...], Contender]] = {}
    for s in samples:
        pool.setdefault(s.prompt, {})[tuple(s.tokens)] = (
            "sample",
            s.weights,
            s.index,
            s.response,
            tuple(s.tokens),
        )
    for r in refinements:
        tokens = tuple(r.rewrite_tokens)
        if r.kept == "rewrite" and tokens not in pool[r.prompt]:
            pool[r.prompt][tokens] = ("rewrite", r.weights, r.index, r.rewrite, tokens)
    return {prompt: [c for c in contenders.values() if c[3]] for prompt, contenders in pool.items()}


def _group(task: Task, row: Row, contenders: list[Contender]) -> Group:
    original = task.group(row)
    return Group(original.prompt, (*original.responses, *(tokens for *_, tokens in contenders)))


def _judge(
    task: Task, row: Row, contenders: list[Contender], judges: list[str], table: LogprobTable
) -> list[Candidate]:
    if not contenders:
        return []
    group = _group(task, row, contenders)
    rewards = _rewards(table, group, judges, task.config.filter.beta)
    originals, mine = rewards[:2], rewards[2:]
    best = choose(mine, originals)
    by_judge: Mapping[str, list[float]] = dict(zip(judges, originals.T.tolist(), strict=True))
    candidates = []
    for at, (source, weights, index, response, tokens) in enumerate(contenders):
        against = reasons(mine[at], originals, judges)
        fate = CHOSEN if at == best else against[0] if against else "dominates, but another has a larger mean reward"
        candidates.append(
            Candidate(
                row.id, row.key, source, weights, index, response, list(tokens), len(tokens),  # type: ignore[arg-type]
                dict(zip(judges, mine[at].tolist(), strict=True)), dict(by_judge), float(mine[at].mean()),
                fate, against,
            )
        )  # fmt: skip
    return candidates


def _rewards(table: LogprobTable, group: Group, judges: list[str], beta: float) -> np.ndarray:  # type: ignore[type-arg]
    """[response, judge] implicit rewards."""
    reference = np.array([[table[REFERENCE, group.prompt, response]] for response in group.responses])
    policy = np.array([[table[judge, group.prompt, response] for judge in judges] for response in group.responses])
    return implicit_rewards(torch.from_numpy(policy), torch.from_numpy(reference), beta).numpy()
