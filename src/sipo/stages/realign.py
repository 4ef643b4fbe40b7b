"""Stage 5, realign: from each policy onward, prefer y_c to both originals (SIPO, Eq. 8).

The two pairs of a row share their prompt and y_c, so they are one packed row. The frozen policy is the
reference, and its log-probabilities are those that the filter judged by: no reference pass. Writes
`adapters/<objective>` (PEFT) and `training.jsonl`.
"""

from pathlib import Path
from typing import Any

from sipo.bank import Adapter, save_adapter
from sipo.decoding import seed_of
from sipo.disk.journal import FOLDER, resumable
from sipo.disk.tables import write_records
from sipo.errors import SipoError
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable, policy
from sipo.records import Candidate
from sipo.stages.align import read_policies, training_table
from sipo.stages.filter import chosen_responses
from sipo.task import Task
from sipo.training.loop import Example, train


def realign(
    task: Task, policies: list[Adapter], candidates: list[Candidate], known: LogprobTable, folder: Path
) -> list[Adapter]:
    """The N realigned policies. `known` holds the filter's log-probabilities."""
    settings, execution = task.config.realign, task.config.execution
    chosen = chosen_responses(candidates)
    rows = [row for row in task.splits.train if row.id in chosen]
    if not rows:
        raise SipoError(
            "realign: the filter found no Pareto-optimal response, so there is nothing to learn from; "
            "sample more (sample.per_weight, sample.prompts) or align longer"
        )

    def example(objective: str, row_id: str, group: Group) -> Example:
        triple = Group(group.prompt, (chosen[row_id], *group.responses))
        reference = tuple(known[policy(objective), triple.prompt, response] for response in triple.responses)
        return Example(triple, reference, ((0, 1, 1.0), (0, 2, 1.0)), chosen=0)

    def one_policy(i: int) -> list[dict[str, Any]]:
        objective = task.objectives[i]
        result = train(
            task.bank,
            policies[i],
            [example(objective, row.id, task.group(row)) for row in rows],
            [],
            settings,
            lr=settings.lr_of(objective),
            seed=seed_of(task.config.seed, "realign"),
            alpha=settings.alpha,
            token_budget=execution.train_tokens,
            checkpoint=folder / FOLDER / f"{objective}.pt",
            checkpoint_seconds=execution.checkpoint_seconds,
            watch=lambda record: task.progress.metric(objective=objective, **record),
        )
        save_adapter(result.adapter, folder / "adapters" / objective, task.backbone.source)
        return [{"objective": objective, **record} for record in result.history]

    histories = resumable(folder, "policies", range(len(policies)), one_policy, task.progress)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    task.progress.table("realigned policies", *training_table(histories))
    return read_policies(folder, task.objectives)
