"""Stages of distillation: a mixture at one weight as one policy, which learns from the mixture's own answers.

It begins as the mixture's soup, is fine-tuned on the answers to the run's training prompts (sequence-level
distillation, Kim and Rush 2016), and then prefers them to the base model's by DPO.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sipo.bank import Adapter, Policy, cut, load_policy
from sipo.data import Row
from sipo.decoding import Mixture, Request, at_soup, base, seed_of
from sipo.disk.journal import FOLDER, Journal, resumable
from sipo.disk.tables import write_records
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable
from sipo.methods.base import base_model
from sipo.methods.interface import Aligned, Method
from sipo.methods.registry import built, find
from sipo.records import Response, Sample
from sipo.stages.answer import answer_prompts
from sipo.stages.judge import with_rewards
from sipo.stages.sample import named, one_row_a_prompt, written
from sipo.task import Task
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Weighting, train
from sipo.training.policies import job_of, rates_of, training_table
from sipo.weights import Weight

TUNED, PREFERRED = "fine-tuned", "preferred"
"""What it is after either training, in the order in which they are."""
BASE, SOUP, DISTILLED = "base", "soup", "distilled"
START = "start"
"""The column of the log-probabilities that DPO begins with."""


def write_answers(task: Task, folder: Path, *, method: str, weight: Weight, **inputs: Any) -> list[Sample]:
    """To every training and validation prompt an answer of the method at the weight, and one of the base model, whose
    weights are empty. Writes `samples.jsonl`.
    """
    aligned = _aligned(task, method, weight, inputs)
    rows = one_row_a_prompt([*task.splits.train, *task.splits.validation])
    asked = [(aligned.mixture, named(task, weight)), (base(len(aligned.adapters)), {})]
    plan = [(row, mixture, shares) for row in rows for mixture, shares in asked]
    requests = (
        Request(task.prompt_tokens(row), mixture, seed_of(task.config.seed, "distil", row.key, *shares.values()))
        for row, mixture, shares in plan
    )
    answers = written(task, list(aligned.adapters), requests, Journal(folder, "answers", task.progress))
    samples = [
        Sample(row.key, shares, 0, task.codec.decode(a.tokens), a.tokens, a.finished)
        for (row, _, shares), a in zip(plan, answers, strict=True)
    ]
    write_records(folder / "samples.jsonl", samples)
    return samples


def learn(
    task: Task,
    samples: Sequence[Sample],
    folder: Path,
    *,
    method: str,
    weight: Weight,
    aligned: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> Policy:
    """The policy, trained twice with the settings of `align`. Writes `adapters/<training>` and `training.jsonl`."""
    config, settings = task.config, task.config.align
    lr = sum(share * rate for share, rate in zip(weight, rates_of(task, aligned).values(), strict=True))
    groups = {part: _groups(task, rows, samples) for part, rows in vars(task.splits).items() if part != "test"}

    def place(training: str) -> Path:
        return folder / "adapters" / training

    def one(training: str) -> list[dict[str, Any]]:
        if training == TUNED:
            start = _soup(task, _aligned(task, method, weight, inputs))
            examples = Examples(
                [Example(Group(g.prompt, g.responses[:1]), (0.0,), ((0, 0, 1.0),), nll=True) for g in groups["train"]]
            )
            loss = Loss(settings.beta, Weighting((0.0,)), alpha=1.0, token_budget=task.train_tokens())
        else:
            start = load_policy(place(TUNED))
            examples = _preferring(task, start, groups, folder)
            loss = Loss(settings.beta, token_budget=task.train_tokens())
            if not examples.train:
                start.save(place(training), task.backbone)
                return []
        best = settings.checkpoint == "best" and bool(examples.validation)
        recipe = Recipe(settings, lr, seed_of(config.seed, "distil", training), keep_best=best)
        job = job_of(task, "distilling", "align.lr", lr, folder / FOLDER / f"{training}.pt", policy=training)
        result = train(task.bank, start, examples, recipe, loss, job=job)
        result.policy.save(place(training), task.backbone)
        return [{"objective": training, **record} for record in result.history]

    histories = resumable(Journal(folder, "policies", task.progress), (TUNED, PREFERRED), one, writes=place)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    task.progress.table("distillation", *training_table([history for history in histories if history]))
    return load_policy(place(PREFERRED))


def judge_beside(
    task: Task, policy: Policy, folder: Path, *, method: str, weight: Weight, **inputs: Any
) -> list[Response]:
    """The method, its soup, the distilled policy and the base model on held-out prompts at the weight, with the same
    noise, under the true rewards. Writes `responses.jsonl`.
    """
    aligned = _aligned(task, method, weight, inputs)
    soup, single = at_soup(_middle(aligned.mixture)), Aligned((policy,), at_soup((1.0,)))
    methods = [
        base_model(aligned.adapters),
        Method(method, lambda _: aligned),
        Method(SOUP, lambda _: Aligned(aligned.adapters, soup)),
        Method(DISTILLED, lambda _: single),
    ]
    answers = answer_prompts(task, methods, folder, [weight])
    against = [each for each in answers if each.method == BASE]
    responses = [
        judged
        for one in methods
        for judged in with_rewards(task, [y for y in answers if y.method == one.name], task.splits.test, against)
    ]
    write_records(folder / "responses.jsonl", responses)
    return responses


def _aligned(task: Task, method: str, weight: Weight, inputs: Mapping[str, Any]) -> Aligned:
    return built(find(method), task.config, inputs)[0].at(weight)


def _middle(mixture: Mixture) -> tuple[float, ...]:
    """The mixture's soup: the mean of its points."""
    return tuple(
        sum(share * c for share, c in zip(mixture.weights, place, strict=True))
        for place in zip(*mixture.points, strict=True)
    )


def _soup(task: Task, aligned: Aligned) -> Policy:
    """The nearest to it of the rank that the run's policies have."""
    mixed = aligned.adapters[0].soup(aligned.adapters, _middle(aligned.mixture), task.backbone.model)
    if task.config.policies == "full":
        return mixed
    return cut(cast(Adapter, mixed), task.config.lora.r)[0]


def _groups(task: Task, rows: Sequence[Row], samples: Sequence[Sample]) -> list[Group]:
    """Of every prompt the method's answer and the base model's."""
    found: dict[str, dict[bool, tuple[int, ...]]] = {}
    for each in samples:
        found.setdefault(each.prompt, {})[bool(each.weights)] = each.tokens
    return [
        Group(task.prompt_tokens(row), (found[row.key][True], found[row.key][False]))
        for row in one_row_a_prompt([*rows])
    ]


def _preferring(task: Task, start: Policy, groups: Mapping[str, list[Group]], folder: Path) -> Examples:
    """The method's answer before the base model's, where they differ; `start` is the reference."""
    differing = {part: [g for g in each if len(set(g.responses)) == len(g.responses)] for part, each in groups.items()}
    table = LogprobTable()
    with task.engine() as engine:
        journal = Journal(folder, "references", task.progress)
        table.fill(
            engine, task.span([start]), [g for each in differing.values() for g in each], {START: (1.0,)}, journal
        )
    made = {
        part: [Example(g, tuple(table.of(g, [START])[:, 0].tolist()), ((0, 1, 1.0),)) for g in each]
        for part, each in differing.items()
    }
    return Examples(made["train"], made["validation"])
