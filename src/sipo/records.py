"""The rows of the stages' tables: what is on disk is what the functions pass on.

A reward that is None was refused by its judge: nothing is known of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LARGEST = 1e100
"""No reward is larger: its square, and a sum of such, are finite."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A response drawn by MOD at one weight (SIPO, Eq. 3)."""

    prompt: str
    """The prompt's key (`Row.key`)."""
    weights: dict[str, float]
    index: int
    """Which of the samples at this prompt and weight."""
    response: str
    tokens: tuple[int, ...]
    finished: bool
    """False where the length limit cut it."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A sample, its review and its rewrite (SIPO, Eq. 4 and 5)."""

    prompt: str
    weights: dict[str, float]
    index: int
    sample: str
    review: str
    rewrite: str
    rewrite_tokens: tuple[int, ...]
    rewrite_finished: bool
    gains: dict[str, float]
    """Implicit reward of the rewrite less that of the sample, by objective; positive is better."""
    kept: Literal["rewrite", "sample"]
    """`sample` where no objective finds the rewrite better."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response that the filter judged for one row."""

    row: str
    """The row's id (`Row.id`)."""
    prompt: str
    source: Literal["sample", "rewrite"]
    weights: dict[str, float]
    index: int
    response: str
    tokens: tuple[int, ...]
    length: int
    rewards: dict[str, float | None]
    """By judge, which depends on the filter's rule: implicit rewards of policies and soups; larger is better."""
    originals: dict[str, list[float | None]]
    """The same rewards of response_0 and response_1."""
    mean_reward: float | None
    fate: str
    """`chosen`, `dominates, but another has a larger mean reward`, or why it fell."""
    estimate: float | None = None
    """Estimated probability that it truly is better than both originals in every objective."""
    reasons: list[str] = field(default_factory=list)
    """Every original and judge that found it no better."""


@dataclass(frozen=True, slots=True)
class Response:
    """A held-out prompt answered by a method at a weight, with its true rewards."""

    method: str
    weights: dict[str, float] | None
    """None for the base model and single policies, which no weight steers."""
    prompt: str
    text: str
    """The prompt as people read it."""
    index: int
    response: str
    length: int
    """Tokens generated."""
    finished: bool
    rewards: dict[str, float | None]
    """By objective, in its own direction."""
    draw: int = 0
    """Of a method that no weight steers: which of its answers, one for each weight of the others."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a method's model at a weight ranks the two responses of a held-out row, and which labels agree."""

    method: str
    weights: dict[str, float] | None
    """None for the base model and single policies, which no weight steers."""
    prompt: str
    """The prompt's key (`Row.key`)."""
    text: str
    """The prompt as people read it."""
    row: str
    """The row's id (`Row.id`)."""
    margin: float
    """Implicit reward of response_1 less that of response_0, over beta: the difference of log pi - log pi_ref."""
    agreed: dict[str, float | None]
    """By objective, 1 where its label agrees, 0 where not, .5 where the model ranks neither first; None without one."""

    @property
    def rewards(self) -> dict[str, float | None]:
        """What it counts in the place of."""
        return self.agreed

    @property
    def draw(self) -> int:
        """Nothing is drawn."""
        return 0


class Measured(Protocol):
    """A number for each objective, of a method at a weight on a prompt: a `Response` or a `Ranking`."""

    @property
    def method(self) -> str: ...
    @property
    def weights(self) -> dict[str, float] | None: ...
    @property
    def prompt(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def rewards(self) -> dict[str, float | None]: ...
    @property
    def draw(self) -> int: ...


Each = TypeVar("Each", bound=Measured)


def known(reward: float) -> float | None:
    """A reward as it is written; NaN, which a refusal is in arrays, is None there."""
    return None if math.isnan(reward) else reward


def comparable(responses: Sequence[Each]) -> list[Each]:
    """Those to prompts of which every response has all of its rewards: the prompts on which methods can be compared."""
    lacking = {each.prompt for each in responses if None in each.rewards.values()}
    return [each for each in responses if each.prompt not in lacking]


def points_of(
    responses: Sequence[Each], objectives: Sequence[str], weights: Sequence[tuple[float, ...]]
) -> dict[str, list[list[Each]]]:
    """The responses, or rankings, of each method by the points of its front: its weights in order, or draws of what
    none steers.
    """
    places = [dict(zip(objectives, weight, strict=True)) for weight in weights]
    found: dict[str, dict[Any, list[Each]]] = {}
    for each in responses:
        at = each.draw if each.weights is None else frozenset(each.weights.items())
        found.setdefault(each.method, {}).setdefault(at, []).append(each)
    return {
        method: [mine[draw] for draw in sorted(mine)]
        if isinstance(next(iter(mine)), int)
        else [mine.get(frozenset(place.items()), []) for place in places]
        for method, mine in found.items()
    }


def rewards_of(points: Sequence[Sequence[Measured]], objectives: Sequence[str]) -> Array:
    """[M, P, N]: mean rewards at each point and prompt, of what is known; NaN where nothing is. Prompts are in their
    sorted order, which all methods share.
    """
    return np.stack([_by_prompt(part, tuple(objectives)) for part in points])


def _by_prompt(responses: Sequence[Measured], objectives: tuple[str, ...]) -> Array:
    """[prompts, N]"""
    places = {prompt: place for place, prompt in enumerate(sorted({each.prompt for each in responses}))}
    at_R = np.array([places[each.prompt] for each in responses])
    values_R_N = np.array([[each.rewards[name] for name in objectives] for each in responses], dtype=float)
    is_known = ~np.isnan(values_R_N)
    count, total = np.zeros((2, len(places), len(objectives)))
    np.add.at(count, at_R, is_known)
    np.add.at(total, at_R, np.where(is_known, values_R_N, 0.0))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
