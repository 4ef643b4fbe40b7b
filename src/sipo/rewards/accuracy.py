"""What a reward model is worth on prompts it has not seen, next to what needs no model."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sipo.rewards.examples import Example, Kind
from sipo.rewards.targets import TARGETS, values_of

Z = 1.959964
"""The normal distribution's quantile for a 95 % interval."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of the held-out comparisons that are right, from 0 to 1, larger is better; an even call counts half.

    None where there is none.
    """

    objective: str
    labels: int
    model: float | None
    interval: tuple[float, float] | None
    """Of the model's share, 95 %: Wilson's, of so many labels as are worth independent ones."""
    length: float | None
    """Of always preferring the longer response, or the shorter: whichever fits the training data better."""
    majority: float | None
    """Of always preferring the response that comes first, or second: as most of the training data do."""


@dataclass(frozen=True)
class ScoreError:
    """How far the rewards are from the held-out scores; None where there are none, or all are the same."""

    objective: str
    scores: int
    mean: float
    """Of the training scores, and `std` their standard deviation."""
    std: float
    error: float | None
    """Mean squared error, in the scores' unit squared; smaller is better."""
    error_of_mean: float | None
    """The same of always saying the mean of the training scores."""
    r2: float | None
    """1 - error / error_of_mean; at most 1, larger is better."""
    correlation: float | None
    """Pearson's."""


def agreement(guesses: Tensor, signs: Tensor) -> float | None:
    """The share of labels [P] that guesses [P] agree with, by their signs; None without any label."""
    given = signs != 0
    return float(_right(guesses, signs)[given].mean()) if bool(given.any()) else None


def held_out_accuracy(
    kind: Kind, rewards: Tensor, held_out: Sequence[Example], train: Sequence[Example], objectives: Sequence[str]
) -> list[Accuracy]:
    """For each objective; `rewards` [R, N] are those of all held-out responses in order."""
    target = TARGETS[kind]
    found, taught = target.comparisons(held_out), target.comparisons(train)
    guesses = rewards[found.second] - rewards[found.first]
    result = []
    for column, name in enumerate(objectives):
        signs = found.signs[:, column] if held_out else torch.zeros(0)
        signs_taught = taught.signs[:, column]
        fits = agreement(taught.longer, signs_taught)
        direction = -1.0 if fits is not None and fits < 0.5 else 1.0
        usual = torch.sign(signs_taught.sum()) * torch.ones_like(signs)
        labels = [place for place, sign in enumerate(signs.tolist()) if sign]
        right = _right(guesses[:, column], signs)[labels]
        result.append(
            Accuracy(
                name,
                len(labels),
                agreement(guesses[:, column], signs),
                wilson_interval(right, [found.prompts[place] for place in labels]) if labels else None,
                agreement(direction * found.longer, signs),
                agreement(usual, signs),
            )
        )
    return result


def score_errors(
    rewards: Tensor, held_out: Sequence[Example], train: Sequence[Example], objectives: Sequence[str]
) -> list[ScoreError]:
    """For each objective of scored responses; `rewards` [R, N] as in `held_out_accuracy`."""
    taught = values_of(train)
    values = values_of(held_out) if held_out else torch.zeros(0, len(objectives))
    result = []
    for column, name in enumerate(objectives):
        known = taught[:, column][~taught[:, column].isnan()]
        mean, std = float(known.mean()), float(known.std(correction=0))
        given = ~values[:, column].isnan()
        scores, said = values[given, column].double(), rewards[given, column].double()
        error = float((said - scores).square().mean()) if len(scores) else None
        of_mean = float((mean - scores).square().mean()) if len(scores) else None
        r2 = 1 - error / of_mean if error is not None and of_mean else None
        varied = len(scores) > 1 and bool(scores.std() > 0) and bool(said.std() > 0)
        correlation = float(torch.corrcoef(torch.stack([said, scores]))[0, 1]) if varied else None
        result.append(ScoreError(name, len(scores), mean, std, error, of_mean, r2, correlation))
    return result


def wilson_interval(right: Tensor, prompts: Sequence[str]) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean of `right` [C], from 0 to 1, whose labels are those of these prompts [C].

    Labels of one prompt may be right together: the interval is that of `effective_labels`.
    """
    share, labels = float(right.double().mean()), effective_labels(right, prompts)
    middle = (share + Z**2 / (2 * labels)) / (1 + Z**2 / labels)
    half = Z * math.sqrt(share * (1 - share) / labels + Z**2 / (4 * labels**2)) / (1 + Z**2 / labels)
    return max(0.0, middle - half), min(1.0, middle + half)


def effective_labels(right: Tensor, prompts: Sequence[str]) -> float:
    """How many independent labels tell as much: the binomial variance over that of the mean by prompt.

    At most as many as there are; as many as there are prompts where all labels are right, or all are wrong.
    """
    share = float(right.double().mean())
    apart: Counter[str] = Counter()
    for prompt, value in zip(prompts, right.double().tolist(), strict=True):
        apart[prompt] += value - share
    if share in (0.0, 1.0):
        return len(apart)
    variance = sum(value**2 for value in apart.values()) / len(right) ** 2
    return min(len(right), share * (1 - share) / variance) if variance else len(right)


def _right(guesses: Tensor, signs: Tensor) -> Tensor:
    """1 where a guess has the label's sign, 0 where the other, a half where it has none."""
    return (torch.sign(guesses) * signs + 1) / 2
