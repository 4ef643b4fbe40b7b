"""The work of every stage, at most: optimizer steps, responses, and tokens through the backbone.

What is upper about it: every response is taken to be as long as it may be where its length is not known, the filter
to find a response for every row, and nothing to be shared between requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sipo.config import Config, Training
from sipo.estimate.sizes import Sizes
from sipo.methods.names import STAGE_OF
from sipo.weights import Weight, is_corner

TRAINED = 2
"""Forwards that a training step through a frozen backbone is worth: one forward, and one back to the adapter."""


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


def work(config: Config, sizes: Sizes, weights: Sequence[Weight], lengths: Lengths) -> dict[str, Work]:
    """By stage; the judges' own work is not in it."""
    n = len(config.objectives)
    between = sum(not is_corner(weight) for weight in weights)
    both = lengths.prompt + 2 * lengths.response
    longest, review = config.data.max_response_tokens, config.refine.review_tokens
    seen = sizes.train + sizes.validation
    align, epochs = config.align, config.align.epochs

    def trained(rows: int, models: int = 1, step: int = TRAINED) -> float:
        return epochs * both * (step * rows + models * sizes.validation)

    labelled = sum(sizes.labelled)
    align_steps = sum(_steps(rows, align) for rows in sizes.labelled)
    lw_steps, modpo_rows = _steps(sizes.train, align), max(sizes.labelled)
    samples = sizes.worked_prompts * between * config.sample.per_weight
    rewrites = samples * config.refine.enabled
    reviewers = sum(share > 0 for share in (config.refine.reviewer or {}).values()) or n
    asked = lengths.prompt + longest + review
    judged = 2 * (sizes.worked * (n + between) + n * sizes.validation) + (samples + rewrites) * between
    scored = judged + (0 if rewrites else samples * (1 + n))
    folds = config.filter.folds
    answers, decoded = _answers(config, sizes, weights)
    return {
        "sft": _sft(config, sizes, lengths),
        "align": Work(align_steps, 0, 2 * seen, seen * both + trained(labelled, n)),
        "lw": Work(between * lw_steps, 0, 0, between * trained(sizes.train)),
        "raco": Work(between * lw_steps, 0, 0, between * trained(sizes.train, step=1 + n)),  # a way back for each
        "consensus": Work(between * lw_steps, 0, 0, between * trained(sizes.train)),
        "modpo": Work(
            between * _steps(modpo_rows, align), 0, 2 * n * seen, n * seen * both + between * trained(modpo_rows)
        ),
        "calibrate": Work(
            (folds - 1) * align_steps,
            0,
            2 * n * sizes.train,
            n * sizes.train * both + (folds - 1) * trained(labelled, n),
        ),
        "sample": Work(0, samples, 0, n * (sizes.worked_prompts * lengths.prompt + samples * longest)),
        "refine": Work(
            0,
            2 * rewrites,
            2 * rewrites * (1 + n),
            rewrites * reviewers * (lengths.review_frame + asked)
            + rewrites * n * (lengths.rewrite_frame + asked + longest)
            + rewrites * (1 + n) * (lengths.prompt + 2 * longest),
        ),
        "score": Work(0, 0, scored, scored * (lengths.prompt + longest)),
        "realign": Work(
            n * _steps(sizes.worked, config.realign),
            0,
            0,
            TRAINED * n * config.realign.epochs * sizes.worked * (both + longest),
        ),
        "evaluate": Work(0, answers, 0, decoded * (lengths.prompt + longest)),
    }


def sft_steps(config: Config, responses: int) -> int:
    """Optimizer steps over so many responses."""
    if config.sft is None:
        return 0
    forwards = math.ceil(responses / config.sft.batch_size)
    return math.ceil(forwards / config.sft.accumulate) * config.sft.epochs


def _sft(config: Config, sizes: Sizes, lengths: Lengths) -> Work:
    """Forward, once more for what was not kept, and back: to all weights that is twice a forward."""
    if config.sft is None:
        return Work()
    responses = 2 * sizes.train
    passes = 3 if config.sft.lora else 4
    tokens = passes * config.sft.epochs * responses * (lengths.prompt + lengths.response)
    return Work(sft_steps(config, responses), 0, 0, tokens)


def _answers(config: Config, sizes: Sizes, weights: Sequence[Weight]) -> tuple[int, int]:
    """Held-out responses to write, and how many models' responses that makes: a mixture has several."""
    n, prompts = len(config.objectives), sizes.test * config.evaluate.per_prompt
    answers = models = 0
    for name in config.methods:
        if name in ("base", "policies"):
            count = (n if name == "policies" else 1) * (len(weights) if config.decoding.temperature > 0 else 1)
            answers, models = answers + count, models + count
            continue
        answers += len(weights)
        mixes = STAGE_OF[name] in ("align", "realign") and not name.endswith("soups")
        models += sum(sum(share > 0 for share in weight) if mixes else 1 for weight in weights)
    return answers * prompts, models * prompts


def _steps(rows: int, settings: Training) -> int:
    return math.ceil(rows / settings.batch_size) * settings.epochs
