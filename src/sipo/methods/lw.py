"""DPO LW: for each weight one model, trained on the weighted sum of the objectives' losses (SIPO, section 2).

Where objectives conflict their terms pull apart: a row's optimum is beta D = log(W_1 / W_0), W_i being the sum of the
weights of the objectives that prefer y_i. References come from the table of the initial alignment.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.declare.parts import LOGPROBS
from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work, steps
from sipo.looks import Look
from sipo.methods.by_weight import Trainer, by_weight_spec, train_by_weight
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.data import Row
    from sipo.graph.build import Graph
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task
    from sipo.training.loop import Example, Trainee, Weighting


def train_lw(
    task: "Task",
    known: "LogprobTable",
    folder: Path,
    *,
    weighting: "Callable[[Weight], Weighting] | None" = None,
    keep: "Callable[[Row], bool]" = lambda _: True,
    aligned: Mapping[str, Any] | None = None,
) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities.

    `weighting` says how the objectives' losses, or their gradients, add up at a weight; `keep` which rows are taken;
    `aligned` the rates of alignment, where they were chosen.
    """
    from sipo.training.loop import Examples, Weighting
    from sipo.training.policies import fresh, rates_of

    splits = task.splits
    examples = Examples(*(_examples(task, rows, known, keep) for rows in (splits.train, splits.validation)))
    rates = rates_of(task, aligned).values()

    def trainee(weight: Weight, checkpoint: Path) -> "Trainee":
        return fresh(
            task,
            examples,
            lr=sum(share * rate for share, rate in zip(weight, rates, strict=True)),
            checkpoint=checkpoint,
            weighting=(weighting or Weighting)(weight),
            weight=weight,
        )

    train_by_weight(task, trainee, folder)


def _examples(
    task: "Task", rows: "Sequence[Row]", known: "LogprobTable", keep: "Callable[[Row], bool]"
) -> "list[Example]":
    """Of the rows to keep, those that any objective has a preference for; one without has no term."""
    from sipo.training.loop import Example

    examples = []
    for row in filter(keep, rows):
        signs = [row.sign(name) for name in task.objectives]
        if any(signs):
            group = task.group(row)
            examples.append(Example(group, known.reference(group), ((1, 0, *signs),)))
    return examples


def lw_work(plan: Plan, ways: int = 1) -> Work:
    """Where a training step goes back so many times."""
    rows = plan.sizes.train
    return Work(steps(rows, plan.config.align), training=plan.trained(rows, ways=ways)).times(plan.between)


def lw_needs(graph: "Graph") -> Inputs:
    return {"known": graph.align[LOGPROBS]}


METHODS = (
    by_weight_spec(
        "lw",
        "a model for each weight, trained on the weighted sum of the objectives' losses",
        Trainer(train_lw, lw_needs, lw_work),
        look=Look("#56B4E9", "v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    ),
)
