"""Stage realign: from each policy onward, prefer y_c to both originals (SIPO, Eq. 8).

The two pairs of a row share their prompt and y_c, so they are one packed row. The frozen policy is the
reference, and its log-probabilities are those that the candidates were scored by: no reference pass. Writes
`adapters/<objective>` (PEFT, or a whole model) and `training.jsonl`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sipo.bank import Policy, new_policy
from sipo.data import Row
from sipo.decoding import seed_of
from sipo.disk.journal import FOLDER, Journal
from sipo.disk.tables import write_records
from sipo.logprobs.packing import Group
from sipo.logprobs.table import LogprobTable, policy
from sipo.records import Candidate
from sipo.stages.align import read_policies
from sipo.stages.filter import chosen_responses
from sipo.stages.sample import of_round
from sipo.task import Task
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Trainee
from sipo.training.policies import job_of, train_units, training_table

Y_C = 0
"""Place of y_c in a realignment's group; response_0 and response_1 follow."""


def realign(
    task: Task,
    policies: list[Policy],
    candidates: list[Candidate],
    known: LogprobTable,
    folder: Path,
    *,
    round: int = 1,
    rates: Mapping[str, float] | None = None,
) -> list[Policy]:
    """The N realigned policies. `known` holds the log-probabilities that `score` made; `rates`, by objective, stand in
    for the configured ones.

    A policy that has nothing to learn from stays as it is: where the filter chose nothing, SIPO equals MOD.
    """
    settings = task.config.realign
    chosen = chosen_responses(candidates)
    ranked = sorted(chosen, key=lambda row: seed_of(task.config.seed, "realign", row, *of_round(round)))
    taken = set(ranked[: settings.rows])
    rows = [row for row in task.splits.train if row.id in taken]
    seed = seed_of(task.config.seed, "realign", *of_round(round))
    key = "realign.strengths" if rates else "realign.lr"

    merged = settings.start == "merged"

    def trainee(i: int) -> Trainee | None:
        objective = task.objectives[i]
        examples = realignment(task, rows, chosen, objective, known)
        if not examples:
            return None
        lr = rates[objective] if rates else settings.lr_of(objective)
        fresh = new_policy(task.backbone.model, task.config.policies, task.config.lora, seed)
        checkpoint = folder / FOLDER / f"{objective}.pt"
        return Trainee(
            fresh if merged else policies[i],
            Examples(examples),
            Recipe(settings, lr, seed),
            Loss(settings.beta, alpha=settings.alpha),
            (policies[i],) if merged else (),
            job_of(task, "realigning", key, lr, checkpoint, objective=objective),
        )

    def keep(i: int, result: Trained | None) -> list[dict[str, Any]]:
        if result is None:
            policies[i].save(place(i), task.backbone)
            return []
        # What was trained above the frozen policy and the policy itself are one: with LoRA, an adapter of both ranks.
        both, model = [policies[i], result.policy], task.backbone.model
        realigned = policies[i].soup(both, [1.0, 1.0], model) if merged else result.policy
        realigned.save(place(i), task.backbone)
        return [{"objective": task.objectives[i], **record} for record in result.history]

    def place(i: int) -> Path:
        return folder / "adapters" / task.objectives[i]

    journal = Journal(folder, "policies", task.progress)
    histories = train_units(task, journal, range(len(policies)), trainee, keep, settings=settings, writes=place)
    write_records(folder / "training.jsonl", [record for history in histories for record in history])
    learned = [history for history in histories if history]
    if learned:
        task.progress.table("realigned policies", *training_table(learned))
    return read_policies(folder, task.objectives)


def realignment(
    task: Task, rows: Sequence[Row], chosen: Mapping[str, tuple[int, ...]], objective: str, known: LogprobTable
) -> list[Example]:
    """Each row's y_c and originals, with the pairs of the configured design; y_w and y_l are the objective's own.

    Every design takes one example a row, so all of them train for the same number of steps. A row without a
    preference for the objective has no y_w, and is left out where the design wants one.
    """
    examples = []
    for row in rows:
        group, label = task.group(row), row.preferred[objective]
        pairs: tuple[tuple[int, int, float], ...]
        if task.config.realign.pairs == "chosen-originals":
            pairs = ((Y_C, 1, 1.0), (Y_C, 2, 1.0))
        elif label is None:
            continue
        else:
            better, worse = 1 + label, 2 - label
            pairs = {
                "chosen-preferred": ((Y_C, better, 1.0),),
                "chosen-preferred-dispreferred": ((Y_C, better, 1.0), (better, worse, 1.0)),
                "preferred-dispreferred": ((better, worse, 1.0),),
            }[task.config.realign.pairs]
        triple = Group(group.prompt, (chosen[row.id], *group.responses))
        reference = tuple(known.of(triple, [policy(objective)])[:, 0].tolist())
        examples.append(Example(triple, reference, pairs, nll=True))
    return examples
