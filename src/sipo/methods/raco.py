"""RACO: LW, but each step combines the objectives' gradients so that fewer of them pull apart (Chen et al. 2026).

The gradient of every objective's DPO loss over a batch is taken apart, and `sipo.training.conflict` makes one step of
them: RACO's, or, with `raco.rule`, that of CAGrad or MGDA.
"""

from pathlib import Path

from sipo.logprobs.table import LogprobTable
from sipo.methods.lw import train_lw
from sipo.task import Task
from sipo.training.loop import Weighting


def train_raco(task: Task, known: LogprobTable, folder: Path) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities."""
    settings = task.config.raco
    train_lw(task, known, folder, weighting=lambda weight: Weighting(weight, rule=settings.rule, c=settings.c))
