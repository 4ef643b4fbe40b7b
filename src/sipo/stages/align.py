"""Stage align: one policy for each objective by DPO (SIPO, Eq. 2).

The reference log-probabilities of all rows are computed once and serve every objective: the responses are the
same, only the labels differ. Writes `adapters/<objective>` (PEFT, or a whole model), `training.jsonl` and
`logprobs.parquet`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sipo.bank import Policy, load_policy, new_policy
from sipo.data import Row
from sipo.decoding import seed_of
from sipo.disk.journal import FOLDER, resumable
from sipo.disk.tables import write_records
from sipo.logprobs.packing import Group
from sipo.logprobs.table import REFERENCE, LogprobTable
from sipo.task import Task
from sipo.training.loop import DPO, Example, Trained, Weighting, train


def align(task: Task, folder: Path) -> list[Policy]:
    """The N policies, in the order of the objectives."""
    table = LogprobTable()
    rows = [*task.splits.train, *task.splits.validation]
    with task.engine() as engine:
        table.fill(
            engine,
            task.span(),
            [task.group(row) for row in rows],
            {REFERENCE: ()},
            folder=folder,
            label="reference",
            progress=task.progress,
        )
    table.write(folder / "logprobs.parquet")

    def one_policy(objective: str) -> list[dict[str, Any]]:
        result = train_fresh(
            task,
            labelled(task, task.splits.train, objective, table),
            labelled(task, task.splits.validation, objective, table),
            lr=task.config.align.lr_of(objective),
            checkpoint=folder / FOLDER / f"{objective}.pt",
            objective=objective,
        )
        result.policy.save(folder / "adapters" / objective, task.backbone)
        return [{"objective": objective, **record} for record in result.history]

    histories = resumable(
        folder, "policies", task.objectives, one_policy, task.progress, writes=lambda name: folder / "adapters" / name
    )
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    task.progress.table("DPO policies", *training_table(histories))
    return read_policies(folder, task.objectives)


def read_policies(folder: Path, objectives: Sequence[str]) -> list[Policy]:
    """What align or realign wrote."""
    return [load_policy(folder / "adapters" / objective) for objective in objectives]


def train_fresh(
    task: Task,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    lr: float,
    checkpoint: Path,
    weighting: Weighting = DPO,
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
        new_policy(task.backbone.model, config, seed_of(config.seed, "adapter")),
        training,
        validation,
        config.align,
        lr=lr,
        seed=seed_of(config.seed, *order),
        weighting=weighting,
        keep_best=best,
        token_budget=config.execution.train_tokens,
        checkpoint=checkpoint,
        checkpoint_seconds=config.execution.checkpoint_seconds,
        watch=lambda record: task.progress.metric(**about, **record),
        name=" ".join(["training", *(f"{what} {which}" for what, which in about.items())]),
        rate="align.lr",
    )
    if best and result.stayed:
        start, lowest = result.stayed
        named = ", ".join(f"{name} {value}" for name, value in about.items())
        task.progress.say(
            f"warning: {named}: no epoch is better on validation than the start ({lowest:.4f} at best, {start:.4f} "
            "before), so it stays the reference; give more rows, change align.lr, or take align.checkpoint: last"
        )
    return result


def labelled(task: Task, rows: Sequence[Row], objective: str, table: LogprobTable) -> list[Example]:
    """The rows that one objective has a preference for, with their reference log-probabilities."""
    examples = []
    for row in rows:
        sign = row.sign(objective)
        if sign:
            group = task.group(row)
            examples.append(Example(group, reference_of(table, group), ((1, 0, sign),)))
    return examples


def reference_of(table: LogprobTable, group: Group) -> tuple[float, ...]:
    """log pi_ref of each response of the group."""
    return tuple(table.of(group, [REFERENCE])[:, 0].tolist())


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
