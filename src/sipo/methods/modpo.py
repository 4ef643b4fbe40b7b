"""MODPO: for each weight one model, trained on one objective with margins from the others' (Zhou et al. 2024).

The margins are the implicit rewards of the other objectives' policies, so with objective k

    loss = -log sigmoid( p_k * (beta D - sum_{j != k} w_j (r_j(y_1) - r_j(y_0))) / w_k )

which is DPO at beta / w_k against a reference shifted by the margins. References and margins are one table,
made once for all weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sipo.declare.parts import LOGPROBS
from sipo.declare.stage import Inputs
from sipo.declare.work import Plan, Work, steps
from sipo.looks import Look
from sipo.methods.by_weight import READS, Trainer, by_weight_spec, train_by_weight
from sipo.settings.section import Name, Section
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.data import Row
    from sipo.graph.build import Graph
    from sipo.logprobs.packing import Group
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task
    from sipo.training.loop import Example, Trainee


class Modpo(Section):
    objective: Name | None = None
    """The objective k that MODPO trains on; null takes the one with the largest share of each weight."""


def train_modpo(
    task: "Task",
    policies: "Sequence[Policy]",
    known: "LogprobTable",
    folder: Path,
    *,
    aligned: Mapping[str, Any] | None = None,
) -> None:
    """One model for each weight, with the settings of `align`. `known` holds the reference's log-probabilities,
    `aligned` the rates of alignment, where they were chosen.
    """
    from sipo.disk.journal import Journal
    from sipo.logprobs.table import policy_points
    from sipo.training.loop import Examples, Weighting
    from sipo.training.policies import fresh, rates_of

    splits = task.splits
    rows = [*splits.train, *splits.validation]
    with task.engine() as engine:
        known.fill(
            engine,
            task.span(policies),
            [task.group(row) for row in rows],
            policy_points(task.objectives),
            Journal(folder, "margins", task.progress),
        )
    known.write(folder / "logprobs.parquet")
    rates = rates_of(task, aligned)

    def trainee(weight: Weight, checkpoint: Path) -> "Trainee":
        k = trained_objective(task, weight)
        return fresh(
            task,
            Examples(*(_examples(task, rows, known, weight, k) for rows in (splits.train, splits.validation))),
            lr=rates[task.objectives[k]],
            checkpoint=checkpoint,
            weighting=Weighting((1.0,), scale=weight[k]),
            weight=weight,
        )

    train_by_weight(task, trainee, folder)


def trained_objective(task: "Task", weight: Weight) -> int:
    """k: the configured objective where it has a share of the weight, else the one with the largest share."""
    fixed = cast(Any, task.config).modpo.objective
    if fixed is not None and weight[task.objectives.index(fixed)] > 0:
        return task.objectives.index(fixed)
    return max(range(len(weight)), key=lambda i: weight[i])


def _examples(task: "Task", rows: "Sequence[Row]", known: "LogprobTable", weight: Weight, k: int) -> "list[Example]":
    """The rows that objective k has a preference for."""
    from sipo.training.loop import Example

    examples = []
    for row in rows:
        sign = row.sign(task.objectives[k])
        if sign:
            group = task.group(row)
            margin = _margin(task, group, known, weight, k)
            examples.append(Example(group, known.reference(group), ((1, 0, sign),), margins=(margin,)))
    return examples


def _margin(task: "Task", group: "Group", known: "LogprobTable", weight: Weight, k: int) -> float:
    """sum_{j != k} w_j (r_j(y_1) - r_j(y_0)), r_j being policy j's implicit reward."""
    from sipo.logprobs.table import policy

    first, second = known.logratios(group, [policy(name) for name in task.objectives]).tolist()
    beta = task.config.align.beta
    return sum(share * beta * (second[j] - first[j]) for j, share in enumerate(weight) if j != k)


def _work(plan: Plan) -> Work:
    rows, seen = max(plan.sizes.labelled), plan.n * plan.seen
    trained = Work(steps(rows, plan.config.align), training=plan.trained(rows)).times(plan.between)
    return trained + Work(scored=2 * seen, scoring=seen * plan.both)


def _needs(graph: "Graph") -> Inputs:
    return {"policies": graph.policies, "known": graph.align[LOGPROBS]}


def _check(config: Any) -> None:
    fixed = config.modpo.objective
    if fixed is not None and fixed not in config.names:
        raise ValueError(f"modpo.objective: `{fixed}` is none; they are {', '.join(config.names)}")


METHODS = (
    by_weight_spec(
        "modpo",
        "a model for each weight, trained on one objective with margins from the other policies' rewards",
        Trainer(train_modpo, _needs, _work, reads=(*READS, "modpo")),
        look=Look("#E69F00", "^", "\N{BLACK UP-POINTING TRIANGLE}"),
        section="modpo",
        settings=Modpo,
        check=_check,
    ),
)
