"""The paper's rule: strictly better than both originals for every judge, and the best mean of those (Eq. 6, 7).

Judges are the implicit rewards of the policies and of soups between them, as configured. With a margin,
ours, a candidate need only be worse than no original by more than the noise: where most candidates tie with the
originals at the ceiling of an objective, a strict gain in its reward is a toss of a coin.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
from pydantic import Field

from sipo.errors import SipoError
from sipo.filters.chance import share_kept
from sipo.filters.contest import CHOSEN, NOT_IN_THE_POOL, ORIGINALS, Array, Contest, Decision, Pool
from sipo.filters.evidence import contradicted, estimates
from sipo.filters.spec import Filter, Outcome, RuleSpec
from sipo.pareto.dominance import choose, reasons
from sipo.settings import Weights
from sipo.settings.section import NotNegative, Rate
from sipo.weights import check_between, grid

if TYPE_CHECKING:
    from sipo.bank.policy import Point
    from sipo.logprobs.packing import Group
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


class Implicit(Filter):
    """The keys of a rule that judges by implicit rewards."""

    beta: Rate = 0.1
    """Scale of the implicit rewards."""
    judges: Annotated[tuple[Literal["policies", "soups"], ...], Field(min_length=1)] = ("policies", "soups")
    """Whose implicit rewards must all be larger: the policies', and those of the soups at `filter.weights`."""
    weights: Weights = Weights()
    """Where the soups that judge stand: those of these weights that lie between the objectives (Eq. 6)."""
    reference: bool = True
    """False leaves log pi_ref out of the rewards, as Eq. 6 is printed."""
    per_token: bool = False
    """Divide the rewards by the response's length in tokens."""
    margin: NotNegative = 0.0
    """By how much a candidate may be worse for a judge, in units of its noise: the root mean square of its differences
    on validation pairs that contradict the label. It must then be better for one judge. 0 asks all for a gain, as Eq.
    7; with 1.64 and normal errors a judge turns one in twenty of what truly ties away."""
    ridge: Rate = 1.0
    """How strongly the scale is held near 0 by which a policy's log-ratio estimates a candidate's chance."""

    @property
    def soups_at(self) -> Weights | None:
        return self.weights if "soups" in self.judges else None


class Paper(Implicit):
    rule: Literal["paper"] = "paper"
    """Better than both originals by all implicit rewards (Eq. 6, 7)."""


def judges_of(task: "Task", settings: Implicit) -> list[str]:
    """The judges of Eq. 6: the policies, and the soups between them; or one kind of them."""
    policies, soups = _points(task, settings)
    return [*(policies if "policies" in settings.judges else ()), *soups]


def _points(task: "Task", settings: Implicit) -> "tuple[dict[str, Point], dict[str, Point]]":
    """Of the policies, and of the soups that judge."""
    from sipo.logprobs.table import policy_points, soup_points

    at = grid(settings.soups_at, task.objectives, "filter.weights") if settings.soups_at else ()
    return policy_points(task.objectives), soup_points(at)


def judge_rewards(table: "LogprobTable", group: "Group", judges: list[str], settings: Implicit) -> Array:
    """[response, judge]: beta (log pi - log pi_ref) of every response, or as `settings` has it; larger is better."""
    import torch

    from sipo.logprobs.table import REFERENCE
    from sipo.training.losses import implicit_rewards

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


def margins_of(task: "Task", known: "LogprobTable", settings: Implicit, judges: Sequence[str]) -> Array | None:
    """[judges], in the unit of their rewards; None for a margin of 0.

    A policy's is a multiple of its noise on validation pairs. A soup's is the mean of theirs by its weights: its reward
    is that of the policies' to first order, so it turns none away that all of them let pass.
    """
    if not settings.margin:
        return None
    (policies, soups), rows = _points(task, settings), task.splits.validation
    rewards_P_2_N = np.stack([judge_rewards(known, task.group(row), [*policies], settings) for row in rows])
    signs = np.array([[row.sign(name) for name in task.objectives] for row in rows])
    noise = contradicted(rewards_P_2_N[:, 1] - rewards_P_2_N[:, 0], signs)
    points = {**policies, **soups}
    return settings.margin * np.array([points[judge] for judge in judges]) @ noise


def decide(
    contest: Contest, judges: Sequence[str], rewards: Array, pool: Pool, margins: Array | None = None
) -> Decision:
    """By dominance, strict or with margins [judges]. `rewards` [2 + C, judges], larger is better."""
    originals, candidates = rewards[:ORIGINALS], rewards[ORIGINALS:]
    eligible = contest.eligible(pool)
    places = eligible.nonzero()[0]
    best = choose(candidates[places], originals, margins) if len(places) else None
    against = [tuple(reasons(each, originals, judges, margins)) for each in candidates]
    fates = []
    for at, why in enumerate(against):
        if not eligible[at]:
            fates.append(NOT_IN_THE_POOL)
        elif best is not None and at == places[best]:
            fates.append(CHOSEN)
        else:
            fates.append(why[0] if why else "dominates, but another has a larger mean reward")
    return Decision(tuple(judges), rewards, tuple(fates), tuple(against))


def decide_all(
    task: "Task", contests: Sequence[Contest], known: "LogprobTable", settings: Implicit, pool: Pool
) -> Outcome:
    """By the judges of `settings` that have an opinion."""
    judges = judges_of(task, settings)
    rewards = [judge_rewards(known, each.group, judges, settings) for each in contests]
    heard = outspoken(judges, rewards)
    names = [judges[at] for at in heard]
    margins = margins_of(task, known, settings, names)
    decisions = [
        decide(contest, names, mine[:, heard], pool, margins) for contest, mine in zip(contests, rewards, strict=True)
    ]
    return Outcome(decisions, margins=None if margins is None else dict(zip(names, margins.tolist(), strict=True)))


def estimated(
    task: "Task", contests: Sequence[Contest], known: "LogprobTable", decisions: Sequence[Decision], ridge: float
) -> list[Decision]:
    """The decisions, with each candidate's estimate where validation rows give one."""
    found = estimates(task, contests, known, ridge)
    if found is None:
        return list(decisions)
    return [replace(each, estimates=mine) for each, mine in zip(decisions, found, strict=True)]


def fits(task: "Task") -> None:
    """Is there a judge, and where a margin is in units of judges' noise, are there labels to estimate it on?"""
    settings = cast(Implicit, task.config.filter)
    if "policies" not in settings.judges:
        check_between(settings.weights, task.objectives, "filter.weights", "and soups alone judge (filter.judges)")
    if not settings.margin:
        return
    for name in task.objectives:
        if not any(row.preferred[name] is not None for row in task.splits.validation):
            raise SipoError(
                f"filter.margin: is in units of the noise on validation rows, and `{name}` has no label in any; "
                "raise data.validation, or leave the margin out"
            )


def _decide(task: "Task", contests: Sequence[Contest], known: "LogprobTable") -> Outcome:
    settings = cast(Paper, task.config.filter)
    found = decide_all(task, contests, known, settings, settings.pool)
    return found._replace(decisions=estimated(task, contests, known, found.decisions, settings.ridge))


def keeps_of_all(settings: Implicit, n: int, samples: int, rewrites: int) -> tuple[float, float]:
    return share_kept(n, samples, rewrites, settings.margin)


def _keeps(settings: Implicit, n: int, samples: int, rewrites: int) -> tuple[float, float]:
    match settings.pool:
        case "all":
            return keeps_of_all(settings, n, samples, rewrites)
        case "kept":
            return keeps_of_all(settings, n, samples, 0)
        case "rewrites":
            return keeps_of_all(settings, n, 0, rewrites)


RULES = (
    RuleSpec(
        Paper,
        "better than both originals by all implicit rewards (Eq. 6, 7)",
        _decide,
        soups=lambda settings: settings.soups_at,
        keeps=_keeps,
        fits=fits,
        explains=True,
    ),
)
