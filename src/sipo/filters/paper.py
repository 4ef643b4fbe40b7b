"""The paper's rule: strictly better than both originals for every judge, and the best mean of those (Eq. 6, 7).

Judges are the implicit rewards of the policies and of the soups at the other weights, as configured.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sipo.config import Filter
from sipo.config.improvement import Pool
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision
from sipo.logprobs.packing import Group
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.pareto.dominance import choose, reasons
from sipo.training.losses import implicit_rewards


def judge_rewards(table: LogprobTable, group: Group, judges: list[str], settings: Filter) -> Array:
    """[response, judge]: beta (log pi - log pi_ref) of every response, or as `settings` has it; larger is better."""
    policy, reference = np.split(table.of(group, [*judges, REFERENCE]), [len(judges)], axis=1)
    if not settings.reference:
        reference = np.zeros_like(reference)
    rewards = implicit_rewards(torch.from_numpy(policy), torch.from_numpy(reference), settings.beta).numpy()
    if settings.per_token:
        rewards = rewards / np.array([[len(response)] for response in group.responses])
    return np.asarray(rewards)


def outspoken(judges: Sequence[str], rewards: Sequence[Array]) -> list[int]:
    """Which judges, by place, tell anything apart. One whose policy stayed the reference gives every response 0: it has
    no opinion, and would strike all candidates. All of them where none has one.
    """
    heard = [at for at in range(len(judges)) if any(each[:, at].any() for each in rewards)]
    return heard or list(range(len(judges)))


def decide(contest: Contest, judges: list[str], rewards: Array, pool: Pool) -> Decision:
    """By strict dominance. `rewards` [2 + C, judges], larger is better."""
    originals, candidates = rewards[:ORIGINALS], rewards[ORIGINALS:]
    eligible = contest.eligible(pool)
    places = eligible.nonzero()[0]
    best = choose(candidates[places], originals) if len(places) else None
    against = [tuple(reasons(each, originals, judges)) for each in candidates]
    fates = []
    for at, why in enumerate(against):
        if not eligible[at]:
            fates.append(NOT_IN_THE_POOL)
        elif best is not None and at == places[best]:
            fates.append(CHOSEN)
        else:
            fates.append(why[0] if why else "dominates, but another has a larger mean reward")
    return Decision(tuple(judges), rewards, tuple(fates), tuple(against))
