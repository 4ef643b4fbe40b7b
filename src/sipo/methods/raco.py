"""RACO: LW, but each step combines the objectives' gradients so that fewer of them pull apart (Chen et al. 2026).

The gradient of every objective's DPO loss over a batch is taken apart, and `sipo.training.conflict` makes one step of
them: RACO's, or, with `raco.rule`, that of CAGrad or MGDA.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sipo.declare.work import Plan, Work
from sipo.looks import Look
from sipo.methods.by_weight import READS, Trainer, by_weight_spec
from sipo.methods.lw import lw_needs, lw_work, train_lw
from sipo.settings.section import Fraction, Section

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task


class Raco(Section):
    rule: Literal["raco", "cagrad"] = "raco"
    """How each step combines the objectives' gradients: CAGrad's way, in raco without more than the weights allow."""
    c: Fraction = 0.4
    """How far a step may leave the weighted sum, as a share of its length, from 0 (`lw`) to below 1."""


class Mgda(Section):
    rule: Literal["mgda"]
    """Along the shortest vector of the gradients' convex hull, which heeds no weight."""


def train_raco(task: "Task", known: "LogprobTable", folder: Path, **aligned: Any) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities."""
    from sipo.training.loop import Weighting

    settings: Raco | Mgda = cast(Any, task.config).raco
    train_lw(task, known, folder, weighting=lambda weight: Weighting(weight, **settings.model_dump()), **aligned)


def _work(plan: Plan) -> Work:
    return lw_work(plan, ways=plan.n)  # back for each objective


METHODS = (
    by_weight_spec(
        "raco",
        "a model for each weight, trained along a combination of the objectives' gradients",
        Trainer(train_raco, lw_needs, _work, combines=True, reads=(*READS, "raco")),
        look=Look("#999933", "H", "\N{HORIZONTAL BLACK HEXAGON}"),
        section="raco",
        settings=(Raco, Mgda),
    ),
)
