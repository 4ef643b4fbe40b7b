"""A contest: one row, its two original responses, and the candidates that might be better than both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sipo.data.rows import Row
from sipo.records import Refinement, Sample

if TYPE_CHECKING:
    from sipo.logprobs.packing import Group

Pool = Literal["all", "kept", "rewrites"]
Array = NDArray[np.float64]
ORIGINALS = 2


@dataclass(frozen=True)
class Contender:
    source: Literal["sample", "rewrite"]
    weights: dict[str, float]
    index: int
    response: str
    tokens: tuple[int, ...]
    kept: bool
    """Does it stand by the authors' keep-rule: the rewrite where one objective finds it better, else the sample?"""


@dataclass(frozen=True)
class Contest:
    row: Row
    group: "Group"
    """The prompt with response_0, response_1, then the contenders."""
    contenders: tuple[Contender, ...]

    def eligible(self, pool: Pool) -> NDArray[np.bool_]:
        """[C]: which contenders may be chosen."""
        match pool:
            case "all":
                may = [True] * len(self.contenders)
            case "kept":
                may = [each.kept for each in self.contenders]
            case "rewrites":
                may = [each.source == "rewrite" for each in self.contenders]
        return np.array(may, dtype=bool)


@dataclass(frozen=True)
class Decision:
    """What a rule makes of a contest."""

    judges: tuple[str, ...]
    rewards: Array
    """[2 + C, judges], larger is better; the originals first."""
    fates: tuple[str, ...]
    """Of each contender: `chosen`, or why it fell."""
    reasons: tuple[tuple[str, ...], ...]
    """Everything that speaks against each contender."""
    estimates: Array | None = None
    """[C] estimated probability that the contender truly is better than both originals in every objective."""


CHOSEN = "chosen"
NOT_IN_THE_POOL = "not in the pool"


def contests(
    rows: Sequence[Row], groups: "Mapping[str, Group]", samples: Sequence[Sample], refinements: Sequence[Refinement]
) -> list[Contest]:
    """One for each row with a contender that is not empty; no contender twice. `groups` are the originals by row id."""
    from sipo.logprobs.packing import Group

    contenders = _by_prompt(samples, refinements)
    found = []
    for row in rows:
        mine = tuple(contenders.get(row.key, {}).values())
        if mine:
            original = groups[row.id]
            responses = (*original.responses, *(each.tokens for each in mine))
            found.append(Contest(row, Group(original.prompt, responses), mine))
    return found


def _by_prompt(
    samples: Sequence[Sample], refinements: Sequence[Refinement]
) -> dict[str, dict[tuple[int, ...], Contender]]:
    replaced = {_place(each) for each in refinements if each.kept == "rewrite"}
    pool: dict[str, dict[tuple[int, ...], Contender]] = {}

    def add(each: Contender, prompt: str) -> None:
        if each.response:
            mine = pool.setdefault(prompt, {})
            earlier = mine.get(each.tokens)
            if earlier is None or (each.kept and not earlier.kept):
                mine[each.tokens] = each

    for s in samples:
        stands = _place(s) not in replaced
        add(Contender("sample", s.weights, s.index, s.response, s.tokens, stands), s.prompt)
    for r in refinements:
        add(Contender("rewrite", r.weights, r.index, r.rewrite, r.rewrite_tokens, r.kept == "rewrite"), r.prompt)
    return pool


def _place(each: Sample | Refinement) -> tuple[str, tuple[float, ...], int]:
    return each.prompt, tuple(each.weights.values()), each.index
