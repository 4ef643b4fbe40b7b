"""The work of a stage, at most: optimizer steps, responses, and tokens through the backbone; the judges' not.

What is upper about it: every response is taken to be as long as it may be where its length is not known, the filter
to find a response for every row, and nothing to be shared between requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sipo.weights import Weight, is_corner

if TYPE_CHECKING:  # the configuration reads the methods, and they this
    from sipo.config import Config
    from sipo.settings import Training

CHARACTERS = 3
"""A token is taken to have so many where no tokenizer is at hand: fewer than in most English text."""


@dataclass(frozen=True)
class Lengths:
    """In tokens: means where they were counted, else limits."""

    prompt: float
    response: float
    """Of the given responses; generated ones count with their limit."""
    review_frame: float = 0.0
    rewrite_frame: float = 0.0
    """What the templates add to a prompt and a response."""


@dataclass(frozen=True)
class Work:
    steps: int = 0
    written: int = 0
    """Responses to generate, reviews included."""
    scored: int = 0
    """(response, model) pairs to score."""
    tokens: float = 0.0
    """Through the backbone, each once for every model that reads or writes it; training ones counted as forwards."""


@dataclass(frozen=True)
class Sizes:
    """How many rows a run works on."""

    train: int
    validation: int
    test: int
    """Held-out prompts that are answered."""
    labelled: tuple[int, ...]
    """Training rows with a preference, for each objective."""
    worked: int
    """Rows that SIPO works on."""
    worked_prompts: int
    said: str
    """Where the numbers are from."""


@dataclass(frozen=True)
class Reckoning:
    """What the formulas of work and memory share."""

    config: "Config"
    lengths: Lengths

    @property
    def n(self) -> int:
        return len(self.config.objectives)

    @property
    def both(self) -> float:
        """Tokens of a row: its prompt and both responses."""
        return self.lengths.prompt + 2 * self.lengths.response

    @property
    def longest(self) -> int:
        return self.config.data.max_response_tokens


@dataclass(frozen=True)
class Plan(Reckoning):
    """What the formulas of work reckon with; lengths are means."""

    sizes: Sizes
    weights: Sequence[Weight]

    @property
    def between(self) -> int:
        """Weights that are no corner."""
        return sum(not is_corner(weight) for weight in self.weights)

    @property
    def seen(self) -> int:
        return self.sizes.train + self.sizes.validation

    @property
    def samples(self) -> int:
        return self.sizes.worked_prompts * self.between * self.config.sample.per_weight

    @property
    def rewrites(self) -> int:
        return self.samples * self.config.refine.enabled

    def step(self, ways: int = 1) -> int:
        """Forwards that a training step is worth. Each way back is worth one to an adapter, and two to all weights."""
        return 1 + ways * (2 if self.config.policies == "full" else 1)

    def trained(self, rows: int, models: int = 1, ways: int = 1) -> float:
        """Tokens of training with the settings of `align`, `models` validated."""
        return self.config.align.epochs * self.both * (self.step(ways) * rows + models * self.sizes.validation)


def nothing(_: Plan) -> Work:
    return Work()


def align(plan: Plan) -> Work:
    labelled = sum(plan.sizes.labelled)
    tokens = plan.seen * plan.both + plan.trained(labelled, plan.n)
    return Work(_align_steps(plan), 0, 2 * plan.seen, tokens)


def calibrate(plan: Plan, folds: int) -> Work:
    others, labelled = folds - 1, sum(plan.sizes.labelled)
    tokens = plan.n * plan.sizes.train * plan.both + others * plan.trained(labelled, plan.n)
    return Work(others * _align_steps(plan), 0, 2 * plan.n * plan.sizes.train, tokens)


def sample(plan: Plan) -> Work:
    tokens = plan.n * (plan.sizes.worked_prompts * plan.lengths.prompt + plan.samples * plan.longest)
    return Work(0, plan.samples, 0, tokens)


def refine(plan: Plan) -> Work:
    settings, lengths, rewrites = plan.config.refine, plan.lengths, plan.rewrites
    reviewers = sum(share > 0 for share in (settings.reviewer or {}).values()) or plan.n
    asked = lengths.prompt + plan.longest + settings.review_tokens
    tokens = (
        rewrites * reviewers * (lengths.review_frame + asked)
        + rewrites * plan.n * (lengths.rewrite_frame + asked + plan.longest)
        + rewrites * (1 + plan.n) * (lengths.prompt + 2 * plan.longest)
    )
    return Work(0, 2 * rewrites, 2 * rewrites * (1 + plan.n), tokens)


def score(plan: Plan, soups: bool) -> Work:
    sizes, n, between = plan.sizes, plan.n, plan.between if soups else 0
    judged = 2 * (sizes.worked * (n + between) + n * sizes.validation) + (plan.samples + plan.rewrites) * between
    scored = judged + (0 if plan.rewrites else plan.samples * (1 + n))
    return Work(0, 0, scored, scored * (plan.lengths.prompt + plan.longest))


def realign(plan: Plan) -> Work:
    settings, worked = plan.config.realign, plan.sizes.worked
    tokens = plan.step() * plan.n * settings.epochs * worked * (plan.both + plan.longest)
    return Work(plan.n * steps(worked, settings), 0, 0, tokens)


def written(plan: Plan, times: int = 1, *, frame: float = 0.0) -> Work:
    """One held-out answer: so many responses, or as many models that write one token by token; `frame` tokens are added
    to the prompt.
    """
    return Work(0, 1, 0, times * (plan.lengths.prompt + frame + plan.longest))


def answers(plan: Plan, each: Sequence[Work]) -> Work:
    """An answer to every held-out prompt at each place of a front."""
    prompts = plan.sizes.test * plan.config.evaluate.per_prompt
    return Work(
        0,
        prompts * sum(one.written for one in each),
        prompts * sum(one.scored for one in each),
        prompts * sum(one.tokens for one in each),
    )


def sft(plan: Plan) -> Work:
    """Forward, once more for what was not kept, and back: to all weights that is twice a forward."""
    settings = plan.config.sft
    if settings is None:
        return Work()
    responses, passes = 2 * plan.sizes.train, 3 if settings.lora else 4
    tokens = passes * settings.epochs * responses * (plan.lengths.prompt + plan.lengths.response)
    return Work(sft_steps(plan.config, responses), 0, 0, tokens)


def _align_steps(plan: Plan) -> int:
    return sum(steps(rows, plan.config.align) for rows in plan.sizes.labelled)


def sft_steps(config: "Config", responses: int) -> int:
    """Optimizer steps over so many responses."""
    if config.sft is None:
        return 0
    forwards = math.ceil(responses / config.sft.batch_size)
    return math.ceil(forwards / config.sft.accumulate) * config.sft.epochs


def steps(rows: int, settings: "Training") -> int:
    """Optimizer steps over so many rows."""
    return math.ceil(rows / settings.batch_size) * settings.epochs
