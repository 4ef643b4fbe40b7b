"""DPO LW: for each weight one model, trained on the weighted sum of the objectives' losses (SIPO, section 2).

Where objectives conflict their terms pull apart: a row's optimum is beta D = logit(sum of the weights of the
objectives that prefer y_1). References come from the table of the initial alignment.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sipo.data import Row
from sipo.logprobs.table import LogprobTable
from sipo.methods.by_weight import train_by_weight
from sipo.stages.align import reference_of, train_fresh
from sipo.task import Task
from sipo.training.loop import Example, Trained, Weighting
from sipo.weights import Weight


def train_lw(
    task: Task,
    known: LogprobTable,
    folder: Path,
    *,
    weighting: Callable[[Weight], Weighting] = Weighting,
    keep: Callable[[Row], bool] = lambda _: True,
) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities.

    `weighting` says how the objectives' losses, or their gradients, add up at a weight; `keep` which rows are taken.
    """
    training = _examples(task, task.splits.train, known, keep)
    validation = _examples(task, task.splits.validation, known, keep)
    rates = [task.config.align.lr_of(name) for name in task.objectives]

    def fit(weight: Weight, checkpoint: Path) -> Trained:
        return train_fresh(
            task,
            training,
            validation,
            lr=sum(share * rate for share, rate in zip(weight, rates, strict=True)),
            checkpoint=checkpoint,
            weighting=weighting(weight),
            weight=weight,
        )

    train_by_weight(task, fit, folder)


def _examples(task: Task, rows: Sequence[Row], known: LogprobTable, keep: Callable[[Row], bool]) -> list[Example]:
    """Of the rows to keep, those that any objective has a preference for; one without has no term."""
    examples = []
    for row in filter(keep, rows):
        signs = [row.sign(name) for name in task.objectives]
        if any(signs):
            group = task.group(row)
            examples.append(Example(group, reference_of(known, group), ((1, 0, *signs),)))
    return examples
