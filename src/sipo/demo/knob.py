"""Answers of the policies that ship with sipo at several weights, and what they are worth."""

from collections.abc import Sequence
from typing import NamedTuple

from sipo.demo.shipped import REWARDS, Shipped
from sipo.weights import Weight


class Answer(NamedTuple):
    prompt: str
    weight: Weight
    text: str
    rewards: tuple[float, ...]
    """One for each objective."""


def answers(prompts: Sequence[str], weights: Sequence[Weight]) -> list[Answer]:
    """The likeliest answer to every prompt at every weight of the objectives, by MOD, in one batch.

    Raises SipoError where the base model, or what judges, is not installed.
    """
    for reward in REWARDS.values():
        reward([""], ["a"])
    run = Shipped()
    asked = [(prompt, weight) for prompt in prompts for weight in weights]
    models = {weight: run.at(dict(zip(REWARDS, weight, strict=True)), "mod") for weight in weights}
    texts = run.generate([(prompt, models[weight]) for prompt, weight in asked])
    rewards = zip(*(reward([prompt for prompt, _ in asked], texts) for reward in REWARDS.values()), strict=True)
    return [Answer(*each, text, given) for each, text, given in zip(asked, texts, rewards, strict=True)]
