"""Dropping conflicts: LW on the rows alone on which no two objectives prefer different responses.

What every method that resolves conflicts is to be held against. Rows that all objectives have a preference for do not
tell weights apart there: between the corners the models then differ by their learning rates alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sipo.errors import SipoError
from sipo.looks import Look
from sipo.methods.by_weight import Trainer, by_weight_spec
from sipo.methods.lw import lw_needs, lw_work, train_lw

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


def train_consensus(task: "Task", known: "LogprobTable", folder: Path, **aligned: Any) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities."""
    train_lw(task, known, folder, keep=lambda row: not row.conflicting(task.objectives), **aligned)


def check_consensus(task: "Task") -> None:
    """Raise SipoError where no training row is left."""
    names = task.objectives
    if all(row.conflicting(names) or not any(row.sign(name) for name in names) for row in task.splits.train):
        raise SipoError(
            f"{task.config.data.path}: the objectives conflict in every training row, so `consensus` has none to "
            "learn from; leave it out of methods"
        )


METHODS = (
    by_weight_spec(
        "consensus",
        "a model for each weight, trained as lw on the rows without a conflict",
        Trainer(train_consensus, lw_needs, lw_work),
        fits=check_consensus,
        look=Look("#56B4E9", "X", "\N{HEAVY MULTIPLICATION X}", "--"),
    ),
)
