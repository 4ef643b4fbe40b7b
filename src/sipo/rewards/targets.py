"""The two kinds of target that a reward model can have: a loss over its heads, and what it lets one compare.

Values are [U, N], of U examples by N objectives, NaN where there is none; rewards are [U, W, N], by each of the W
responses of an example.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sipo.rewards.examples import Example, Kind


@dataclass(frozen=True)
class Comparisons:
    """C pairs of responses to the same prompt, `first` and `second` [C], as indices into all responses in order."""

    first: Tensor
    second: Tensor
    signs: Tensor
    """[C, N]: +1 where the second is preferred, -1 where the first, 0 where neither is."""
    longer: Tensor
    """[C]: by how many characters the second is longer."""
    prompts: list[str]


class Target(Protocol):
    def scale(self, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation [N] of the training values that the rewards shall have; None for no unit."""
        ...

    def loss(self, rewards: Tensor, values: Tensor) -> Tensor:
        """The sum over all values that there are, a scalar; smaller is better."""
        ...

    def comparisons(self, examples: Sequence[Example]) -> Comparisons: ...


def bradley_terry(differences: Tensor, signs: Tensor) -> Tensor:
    """-log sigmoid(p * (r(y_1) - r(y_0))) of every label, a scalar, summed; smaller is better.

    differences, signs: [P, N]; where the sign p is 0 there is no label, and no term.
    """
    return -(signs.abs() * logsigmoid(signs * differences)).sum()


def squared_error(rewards: Tensor, scores: Tensor) -> Tensor:
    """(r(y) - s)^2 of every score, a scalar, summed; smaller is better. rewards, scores: [R, N], NaN for no score."""
    given = ~scores.isnan()
    return ((rewards - scores)[given] ** 2).sum()


class Pairs:
    """Of two responses, one is preferred (Bradley-Terry); the rewards' zero and unit are their own."""

    def scale(self, values: Tensor) -> None:
        return None

    def loss(self, rewards: Tensor, values: Tensor) -> Tensor:
        return bradley_terry(rewards[:, 1] - rewards[:, 0], _signs(values))

    def comparisons(self, examples: Sequence[Example]) -> Comparisons:
        values = values_of(examples)
        places = torch.arange(0, 2 * len(examples), 2)
        longer = [float(len(second.response) - len(first.response)) for first, second in (e.items for e in examples)]
        prompts = [example.prompt for example in examples]
        return Comparisons(places, places + 1, _signs(values), torch.tensor(longer), prompts)


class Scores:
    """A response has a score by each objective (squared error); the rewards are on the scores' own scale."""

    def scale(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mean = values.nanmean(0)
        return mean, (values - mean).square().nanmean(0).sqrt()

    def loss(self, rewards: Tensor, values: Tensor) -> Tensor:
        return squared_error(rewards[:, 0], values)

    def comparisons(self, examples: Sequence[Example]) -> Comparisons:
        """Different responses to the same prompt; the one with the larger score is preferred."""
        of_prompt: dict[str, list[int]] = defaultdict(list)
        for place, example in enumerate(examples):
            of_prompt[example.prompt].append(place)
        texts = [example.items[0].response for example in examples]
        found = [
            (prompt, first, second)
            for prompt, places in of_prompt.items()
            for first, second in combinations(places, 2)
            if texts[first].strip() != texts[second].strip()
        ]
        first, second = (torch.tensor([each[side] for each in found], dtype=torch.long) for side in (1, 2))
        values = values_of(examples)
        signs = torch.sign(values[second] - values[first]).nan_to_num()
        longer = torch.tensor([float(len(texts[j]) - len(texts[i])) for _, i, j in found])
        return Comparisons(first, second, signs, longer, [prompt for prompt, *_ in found])


TARGETS: dict[Kind, Target] = {"pairs": Pairs(), "scores": Scores()}


def values_of(examples: Sequence[Example]) -> Tensor:
    """[U, N], NaN where there is no value."""
    rows = [[float("nan") if value is None else float(value) for value in example.values] for example in examples]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1 if rows else 0)


def _signs(labels: Tensor) -> Tensor:
    """Labels 0 and 1 as -1 and +1, and none as 0."""
    return (2 * labels - 1).nan_to_num()
