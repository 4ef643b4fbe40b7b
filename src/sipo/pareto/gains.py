"""What a method gains and costs against another in each objective, in its own units, averaged over the weights.

Utility adds the objectives up by weight; here each stands alone, so that a gain in one cannot hide a cost in another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sipo.pareto.bootstrap import Array, filled, known_prompts
from sipo.pareto.indicators import signs
from sipo.pareto.verdicts import LEVEL, Word, decide, mean_difference, moving, undecided

FAMILY_LEVEL = 0.01
"""Share of the runs in which any of these statements may be false, were nothing different. It is small because the
verdicts by utility have 5 % of their own."""


@dataclass(frozen=True)
class Gain:
    """A paired difference of means, positive where the first is better, with an interval that holds for all at once."""

    value: float
    low: float
    high: float
    word: Word
    because: str
    """What forbids to say more; empty where the word says all."""

    @property
    def shown(self) -> bool:
        return self.word != "not shown"


def gains(
    rewards: Mapping[str, Array], maximise: Mapping[str, bool], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Gain]]:
    """Of each pair of methods, by objective, the first less the second, in the objective's unit and turned so that
    positive is better.

    `rewards` holds [M, P, N] on the same P prompts, NaN where nothing is known. All pairs and objectives are one family
    (Bonferroni): a word is said with FAMILY_LEVEL over all of them, the intervals hold at once with as much, and all
    that forbids a verdict of utility (`sipo.pareto.verdicts.decide`) forbids one here.
    """
    family = max(1, len(pairs) * len(maximise))
    prompts = np.min([known_prompts(each) for each in rewards.values()], axis=0).tolist()
    rewards = {method: filled(each) for method, each in rewards.items()}
    return {
        (a, b): {
            name: _gain(rewards[a][..., [n]] * sign, rewards[b][..., [n]] * sign, name, family, prompts[n])
            for n, (name, sign) in enumerate(zip(maximise, signs(list(maximise.values())), strict=True))
        }
        for a, b in pairs
    }


def _gain(a_M_P_1: Array, b_M_P_1: Array, name: str, family: int, prompts: int) -> Gain:
    per_prompt_P = a_M_P_1[..., 0].mean(axis=0) - b_M_P_1[..., 0].mean(axis=0)
    found = mean_difference(per_prompt_P, float(max(np.abs(a_M_P_1).max(), np.abs(b_M_P_1).max())))
    # Without a slope over weights: only whether anything changes from one method to the other.
    flat_M_1 = np.ones((1, 1))
    means = (a_M_P_1.mean(axis=0, keepdims=True), b_M_P_1.mean(axis=0, keepdims=True))
    (moves,), (few,) = moving(*means, flat_M_1), undecided(a_M_P_1, b_M_P_1, flat_M_1, found.value)
    strict = min(1.0, found.p * family * LEVEL / FAMILY_LEVEL)
    word, because = decide(
        found, strict, still=() if moves else (name,), rare=(name,) if few else (), prompts=prompts, family=family,
    )  # fmt: skip
    return Gain(found.value, *found.interval(1 - FAMILY_LEVEL / family), word, because)
