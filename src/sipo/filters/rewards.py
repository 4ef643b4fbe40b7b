"""The objectives' own rewards as judges: the ceiling that a filter can reach, where true rewards are to be had."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from sipo.declare.work import filtering
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision, Pool
from sipo.filters.spec import Filter, Outcome, RuleSpec
from sipo.pareto.dominance import truly_better

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task

BEATEN = "better, but another has a larger mean reward"
REFUSED = "not compared: a judge refused it, or an original"


class Rewards(Filter):
    rule: Literal["rewards"]
    """Better than both originals by the objectives' own rewards, which only a testbed or a reward model can give."""


def decide_by_rewards(
    contests: Sequence[Contest], rewards: Sequence[Array], objectives: Sequence[str], pool: Pool
) -> list[Decision]:
    """Of the candidates that are at least as good as both originals everywhere and better than each somewhere, the
    one with the largest mean reward, in units of each objective's standard deviation. `rewards`: for each contest
    [2 + C, N], larger is better, NaN where a judge refused: what lacks a reward is not known to be better.
    """
    scale = np.ma.masked_invalid(np.concatenate(list(rewards))).std(axis=0).filled(1.0)
    scale[scale == 0] = 1.0
    return [
        _decide_one(contest, mine, mine / scale, tuple(objectives), pool)
        for contest, mine in zip(contests, rewards, strict=True)
    ]


def _decide_one(contest: Contest, rewards: Array, scaled: Array, objectives: tuple[str, ...], pool: Pool) -> Decision:
    better = truly_better(rewards[ORIGINALS:], rewards[:ORIGINALS])
    eligible = contest.eligible(pool)
    open_ = better & eligible
    known = np.isfinite(rewards[ORIGINALS:]).all(axis=1) & bool(np.isfinite(rewards[:ORIGINALS]).all())
    words = np.select([~eligible, better, known], [NOT_IN_THE_POOL, BEATEN, "not better"], REFUSED)
    fates = list(map(str, words))
    if open_.any():
        fates[int(np.where(open_, scaled[ORIGINALS:].mean(axis=1), -np.inf).argmax())] = CHOSEN
    return Decision(objectives, rewards, tuple(fates), ((),) * len(fates), np.where(known, better, np.nan))


def _true_rewards(task: "Task", contests: Sequence[Contest]) -> list[Array]:
    """[2 + C, N] of each contest, larger is better; NaN where a judge refused."""
    from sipo.rewards import Item, signed_rewards

    config = task.config
    responses = [(*task.texts(each.row), *(c.response for c in each.contenders)) for each in contests]
    items = [Item(each.row.prompt, y) for each, mine in zip(contests, responses, strict=True) for y in mine]
    rewards = signed_rewards(config.objectives, items, config.execution, task.progress, moment=task.moment)
    return np.split(rewards, np.cumsum([len(mine) for mine in responses])[:-1])


def _decide(task: "Task", contests: Sequence[Contest], _: "LogprobTable") -> Outcome:
    return Outcome(decide_by_rewards(contests, _true_rewards(task, contests), task.objectives, task.config.filter.pool))


RULES = (
    RuleSpec(
        Rewards,
        "better than both originals by the objectives' own rewards",
        _decide,
        reads=("objectives.reward",),
        work=filtering,
    ),
)
