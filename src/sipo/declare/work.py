"""The work of a stage, at most: optimizer steps, responses, and tokens through the backbone; the judges' not.

What is upper about it: every response is taken to be as long as it may be where its length is not known, the filter
to find a response for every row, and nothing to be shared between requests but what the prompts of a batch begin with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sipo.weights import Weight, between, grid

if TYPE_CHECKING:  # the configuration reads the methods, and they this
    from sipo.config import Config
    from sipo.settings import Training

FEW_ROWS = 64
"""As many are decoded at once, or memory is short."""
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
    dropped: int = 0
    """Of these the draws that are no answers, since another of them is taken; nobody judges them."""
    scored: int = 0
    """(response, model) pairs to score."""
    reading: float = 0.0
    """Tokens of prompts to be answered. These and the following count once for every model that they go through."""
    decoding: float = 0.0
    """Tokens of answers, written one after the other."""
    scoring: float = 0.0
    """Tokens of prompts and given responses."""
    training: float = 0.0
    """The same, each as often as a step is worth forwards."""
    judged: int = 0
    """Responses to be given a reward, each alone."""
    compared: int = 0
    """Responses to be held against another, by a judge that compares; counted among `judged` as well."""

    @property
    def tokens(self) -> float:
        """Through the backbone, of whatever kind."""
        return self.reading + self.decoding + self.scoring + self.training

    def times(self, count: float) -> "Work":
        return Work(**{name: type(value)(count * value) for name, value in vars(self).items()})

    def __add__(self, other: "Work") -> "Work":
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Sizes:
    """How many rows a run works on."""

    train: int
    validation: int
    test: int
    """Held-out prompts that are answered."""
    ranked: int
    """Labelled rows of theirs."""
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
    """Those that are measured."""
    shares: bool = True
    """Is what the prompts of a batch begin with read once for them all? Not by every model (`sipo.bank.routes`)."""

    @property
    def between(self) -> int:
        """Measured weights that are no corner."""
        return len(between(self.weights))

    @property
    def seen(self) -> int:
        return self.sizes.train + self.sizes.validation

    @property
    def sampled(self) -> list[Weight]:
        """The weights that samples are drawn at."""
        return between(grid(self.config.sample.weights, self.config.names, "sample.weights"))

    @property
    def samples(self) -> int:
        return self.sizes.worked_prompts * len(self.sampled) * self.config.sample.per_weight

    @property
    def writers(self) -> float:
        """Models that write a sample by MOD, on average: those with a share."""
        return sum(share > 0 for weight in self.sampled for share in weight) / max(len(self.sampled), 1)

    @property
    def rewrites(self) -> int:
        return self.samples * self.config.refine.enabled

    def frames(self, frame: float, prompts: int, models: float) -> float:
        """Tokens of a template's own text around so many prompts, each read by so many models."""
        asked = self.config.execution.decode_rows
        batches = math.ceil(prompts * models / (FEW_ROWS if asked == "auto" else asked))
        return frame * models * (min(batches, prompts) if self.shares else prompts)

    def step(self, ways: int = 1) -> int:
        return forwards(self.config, ways)

    def trained(self, rows: int, models: int = 1, ways: int = 1) -> float:
        """Tokens of training with the settings of `align`, `models` validated."""
        return self.config.align.epochs * self.both * (self.step(ways) * rows + models * self.sizes.validation)


def forwards(config: "Config", ways: int = 1) -> int:
    """What a training step is worth. Each way back is worth one to an adapter, and two to all weights; with gradient
    checkpointing one more, since layers are computed again.
    """
    return 1 + ways * ((2 if config.policies == "full" else 1) + config.execution.gradient_checkpointing)


def nothing(_: Plan) -> Work:
    return Work()


def align(plan: Plan) -> Work:
    return references(plan) + aligning(plan)


def references(plan: Plan) -> Work:
    return Work(scored=2 * plan.seen, scoring=plan.seen * plan.both)


def aligning(plan: Plan) -> Work:
    """Of every objective's policy, once the references are known."""
    return Work(_align_steps(plan), training=plan.trained(sum(plan.sizes.labelled), plan.n))


def calibrate(plan: Plan, folds: int) -> Work:
    others, rows = folds - 1, plan.n * plan.sizes.train
    training = others * plan.trained(sum(plan.sizes.labelled), plan.n)
    return Work(others * _align_steps(plan), scored=2 * rows, scoring=rows * plan.both, training=training)


def sample(plan: Plan) -> Work:
    reading = plan.n * plan.sizes.worked_prompts * plan.lengths.prompt
    return Work(written=plan.samples, reading=reading, decoding=plan.writers * plan.samples * plan.longest)


def refine(plan: Plan) -> Work:
    settings, lengths, rewrites = plan.config.refine, plan.lengths, plan.rewrites
    reviewers = sum(share > 0 for share in (settings.reviewer or {}).values()) or plan.n
    answered = lengths.prompt + plan.longest
    reviews = Work(
        written=rewrites,
        reading=plan.frames(lengths.review_frame, rewrites, reviewers) + rewrites * reviewers * answered,
        decoding=rewrites * reviewers * settings.review_tokens,
    )
    return reviews + Work(
        written=rewrites,
        scored=2 * rewrites * (1 + plan.n),
        reading=plan.frames(lengths.rewrite_frame, rewrites, plan.writers)
        + rewrites * plan.writers * (answered + settings.review_tokens),
        decoding=rewrites * plan.writers * plan.longest,
        scoring=rewrites * (1 + plan.n) * (answered + plan.longest),
    )


def score(plan: Plan, soups: int) -> Work:
    """By so many soups beside the policies."""
    sizes, n = plan.sizes, plan.n
    judged = 2 * (sizes.worked * (n + soups) + n * sizes.validation) + (plan.samples + plan.rewrites) * soups
    scored = judged + (0 if plan.rewrites else plan.samples * (1 + n))
    return Work(scored=scored, scoring=scored * (plan.lengths.prompt + plan.longest))


def realign(plan: Plan) -> Work:
    settings, worked = plan.config.realign, plan.sizes.worked
    training = plan.step() * plan.n * settings.epochs * worked * (plan.both + plan.longest)
    return Work(plan.n * steps(worked, settings), training=training)


def trial_answers(plan: Plan, limit: int) -> Work:
    """Validation prompts answered by MOD at the corners and in the middle."""
    prompts = min(limit, plan.sizes.validation)
    models = 2 * plan.n * prompts
    return Work(written=prompts * (plan.n + 1), reading=models * plan.lengths.prompt, decoding=models * plan.longest)


def middle_answers(plan: Plan, models: int) -> Work:
    """Validation prompts answered at equal weights by so many models."""
    prompts = min(plan.config.evaluate.validation_prompts, plan.sizes.validation)
    return Work(
        written=prompts,
        reading=models * prompts * plan.lengths.prompt,
        decoding=models * prompts * plan.longest,
    )


def trial_scores(plan: Plan) -> Work:
    rows = plan.n * plan.sizes.validation
    return Work(scored=2 * rows, scoring=rows * plan.both)


def written(plan: Plan, times: int = 1, *, frame: float = 0.0) -> Work:
    """One held-out answer: so many responses, or as many models that write one token by token; `frame` tokens are added
    to the prompt.
    """
    return Work(written=1, reading=times * (plan.lengths.prompt + frame), decoding=times * plan.longest)


def answers(plan: Plan, each: Sequence[Work]) -> Work:
    """An answer to every held-out prompt at each place of a front."""
    return sum(each, Work()).times(plan.sizes.test * plan.config.evaluate.per_prompt)


def judging(answers: Work, base: bool) -> Work:
    """Of a method's answers; no answer of `base` is held against itself."""
    kept = answers.written - answers.dropped
    return Work(judged=kept, compared=0 if base else kept)


def filtering(plan: Plan) -> Work:
    """Of a rule that asks the rewards: every candidate, and both originals."""
    return Work(judged=2 * plan.sizes.worked + plan.samples + plan.rewrites)


def agreement(plan: Plan, pairs: int) -> Work:
    """Of a judge with labels, on at most so many pairs."""
    pairs = min(pairs, plan.sizes.validation + plan.sizes.test)
    return Work(judged=2 * pairs, compared=pairs)


def held_out(plan: Plan) -> Work:
    """Labelled held-out rows under the reference."""
    return Work(scored=2 * plan.sizes.ranked, scoring=plan.sizes.ranked * plan.both)


def rankings(plan: Plan, models: Sequence[int]) -> Work:
    """The same under a method's models, which are so many at each place of its front. The points that several weights
    mix go through the model once for all of them: the policies, and the reference where a mixture has it.
    """
    rows, mixed = plan.sizes.ranked, [count for count in models if count > 1]
    points = models.count(1) + (max(plan.n, *mixed) if mixed else 0)
    apart = 2 * (plan.lengths.prompt + plan.lengths.response)  # where rows of two do not pay
    return Work(scored=2 * rows * len(models), scoring=rows * points * apart)


def sft(plan: Plan) -> Work:
    """Forward, once more for what was not kept, and back: to all weights that is twice a forward."""
    settings = plan.config.sft
    if settings is None:
        return Work()
    responses, passes = 2 * plan.sizes.train, 3 if settings.lora else 4
    tokens = passes * settings.epochs * responses * (plan.lengths.prompt + plan.lengths.response)
    return Work(sft_steps(plan.config, responses), training=tokens)


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
