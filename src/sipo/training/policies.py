"""Training the policies of a stage, as many in the same steps as is worth it, and what people are told of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sipo.bank import new_policy
from sipo.decoding import seed_of
from sipo.disk.content import short_digest
from sipo.disk.journal import Journal, Results, in_any_order, the_only_unit
from sipo.finite import NotFiniteError
from sipo.training.learner import Checkpoint, Job, Recipe
from sipo.training.loop import SINGLE, Examples, Loss, Trained, Trainee, Weighting, train_together

if TYPE_CHECKING:
    from sipo.settings import Training
    from sipo.task import Task

Unit = TypeVar("Unit")


def rates_of(task: "Task", aligned: Mapping[str, Any] | None) -> dict[str, float]:
    """The rates of alignment, by objective: as written, or where `align.lr` is auto, those of the strength taken."""
    if aligned:
        return dict(aligned["lr"])
    return {name: task.config.align.lr_of(name) for name in task.objectives}


def train_units(
    task: "Task",
    journal: Journal,
    units: Sequence[Unit],
    trainee: Callable[[Unit], Trainee | None],
    finish: Callable[[Unit, Trained | None], Any],
    *,
    settings: "Training",
    writes: Callable[[Unit], Path],
) -> list[Any]:
    """[finish(unit, what became of trainee(unit))] for all units, None of what has nothing to learn; those that an
    earlier try finished are skipped, as by `resumable`.

    Which of them learn in the same steps is planned from all units, whatever of them is done, since neighbours change
    the last bits; a unit that is asked for alone learns alone. Raises NotFiniteError for the first that diverged; those
    beside it are not kept, whose last bits are those of a training without it.
    """
    alone = the_only_unit()
    groups = _even(len(units), task.together(len(units), settings)) if alone is None else [range(alone, alone + 1)]

    def work(done: Collection[int]) -> Results:
        for group in groups:
            if all(number in done for number in group):
                continue
            trainees = {number: each for number in group if (each := trainee(units[number]))}
            tokens = task.train_tokens(len(group))
            results = dict(zip(trainees, _train(task, list(trainees.values()), tokens), strict=True))
            trained = dict[int, Trained]()
            for number, result in results.items():
                if isinstance(result, NotFiniteError):
                    raise result
                trained[number] = result
            for number in group:
                if number not in done:
                    yield number, finish(units[number], trained.get(number))

    return in_any_order(journal, len(units), work, writes=lambda number: writes(units[number]))


def _train(task: "Task", trainees: Sequence[Trainee], tokens: int) -> list[Trained | NotFiniteError]:
    """With so many tokens in a forward."""
    trainees = [replace(each, loss=replace(each.loss, token_budget=tokens)) for each in trainees]
    jobs = [each.job for each in trainees]
    if not jobs:
        return []
    checkpoint, bar = jobs[0].checkpoint, jobs[0].bar
    if len(jobs) > 1:
        if checkpoint:  # a file of them all, which no others take for theirs
            name = short_digest("\n".join(job.name for job in jobs))
            checkpoint = Checkpoint(checkpoint.path.with_name(f"{name}.pt"), checkpoint.seconds)
        bar = partial(task.progress.track, f"{len(jobs)} policies in the same steps", unit="steps")
    return train_together(task.bank, trainees, checkpoint=checkpoint, bar=bar)


def _even(count: int, most: int) -> list[range]:
    """0 .. count - 1 in as few ranges of at most so many as there can be, of near-equal lengths."""
    parts = -(-count // most)
    return [range(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def fresh(
    task: "Task",
    examples: Examples,
    *,
    lr: float,
    checkpoint: Path,
    weighting: Weighting = SINGLE,
    order: Sequence[object] = ("align",),
    **about: object,
) -> Trainee:
    """A fresh policy to be trained with the settings of `align`: what every policy and model of a weight begins as.

    `order` seeds the order of the rows; `about` goes into the metrics of every step.
    """
    config = task.config
    return Trainee(
        new_policy(task.backbone.model, config.policies, config.lora, seed_of(config.seed, "adapter")),
        examples,
        Recipe(config.align, lr, seed_of(config.seed, *order), keep_best=config.align.checkpoint == "best"),
        Loss(config.align.beta, weighting),
        job=job_of(task, "training", "align.lr", lr, checkpoint, **about),
    )


def say_if_it_stayed(task: "Task", result: Trained, **about: object) -> None:
    """Of a fresh policy, named by `about`: that it stays the reference, where no epoch made it better."""
    if task.config.align.checkpoint == "best" and result.stayed:
        start, lowest = result.stayed
        named = ", ".join(f"{name} {value}" for name, value in about.items())
        task.progress.say(
            f"warning: {named}: no epoch is better on validation than the start ({lowest:.4f} at best, {start:.4f} "
            "before), so it stays the reference; give more rows, change align.lr, or take align.checkpoint: last"
        )


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
