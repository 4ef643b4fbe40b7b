"""Training policies with the settings of `align`, and what people are told of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.bank import new_policy
from sipo.decoding import seed_of
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.loop import SINGLE, Examples, Loss, Trained, Weighting, train

if TYPE_CHECKING:
    from sipo.task import Task


def rates_of(task: "Task", aligned: Mapping[str, Any] | None) -> dict[str, float]:
    """The rates of alignment, by objective: as written, or where `align.lr` is auto, those of the strength taken."""
    if aligned:
        return dict(aligned["lr"])
    return {name: task.config.align.lr_of(name) for name in task.objectives}


def train_fresh(
    task: "Task",
    examples: Examples,
    *,
    lr: float,
    checkpoint: Path,
    weighting: Weighting = SINGLE,
    order: Sequence[object] = ("align",),
    **about: object,
) -> Trained:
    """A fresh policy trained with the settings of `align`: what every policy and every model of a weight begins as.

    `order` seeds the order of the rows; `about` goes into the metrics of every step.
    """
    config = task.config
    best = config.align.checkpoint == "best"
    result = train(
        task.bank,
        new_policy(task.backbone.model, config.policies, config.lora, seed_of(config.seed, "adapter")),
        examples,
        Recipe(config.align, lr, seed_of(config.seed, *order), keep_best=best),
        Loss(config.align.beta, weighting, token_budget=config.execution.train_tokens),
        job=job_of(task, "training", "align.lr", lr, checkpoint, **about),
    )
    if best and result.stayed:
        start, lowest = result.stayed
        named = ", ".join(f"{name} {value}" for name, value in about.items())
        task.progress.say(
            f"warning: {named}: no epoch is better on validation than the start ({lowest:.4f} at best, {start:.4f} "
            "before), so it stays the reference; give more rows, change align.lr, or take align.checkpoint: last"
        )
    return result


def job_of(task: "Task", verb: str, key: str, lr: float, checkpoint: Path, **about: object) -> Job:
    """A training of this run, by a rate that `key` gives; `about` names it, and goes into the metrics of every step."""
    return Job(
        " ".join([verb, *(f"{what} {which}" for what, which in about.items())]),
        f"lower {key}, which is {lr:g}, or set model.dtype to float32",
        Checkpoint(checkpoint, task.config.execution.checkpoint_seconds),
        watch=lambda record: task.progress.metric(**about, **record),
        warn=lambda line: task.progress.say(f"warning: {line}; what learns beside it goes on"),
        bar=lambda steps, done: task.progress.track(" ".join(map(str, about.values())), steps, done, unit="steps"),
    )


def training_table(histories: Sequence[Sequence[dict[str, Any]]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people: where each objective's training began and ended."""
    columns = ["objective", "steps", "first loss", "last loss", "last accuracy", "validation loss before", "at best"]
    rows = []
    for history in histories:
        validation = [record["validation_loss"] for record in history if "validation_loss" in record]
        first, last = history[0], history[-1]
        before, best = (first.get("start_validation_loss", "-"), min(validation)) if validation else ("-", "-")
        rows.append([last["objective"], len(history), first["loss"], last["loss"], last["accuracy"], before, best])
    return columns, rows
