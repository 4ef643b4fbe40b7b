"""True rewards of what the run made out of its training rows, beside those of the responses it was given."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import fmean

from sipo.data import Row
from sipo.records import known
from sipo.report.fronts import better
from sipo.report.inputs import Inputs
from sipo.report.parts import Cell, Table
from sipo.rewards import Item, score_responses
from sipo.rewards.objective import Objective
from sipo.settings import Execution
from sipo.words import quantity

TrueRewards = Mapping[Item, Mapping[str, float | None]]
"""By objective, in its own direction; None where a judge refused, objectives without a reward function left out."""


def texts_of(rows: Sequence[Row], inputs: Inputs) -> list[Item]:
    """Everything that the filter compared or might have, for these rows; none twice."""
    return list(dict.fromkeys(text for _, texts in _kinds(rows, inputs, ()) for text in texts))


def true_rewards(
    objectives: Sequence[Objective], texts: Sequence[Item], execution: Execution, moment: datetime
) -> TrueRewards:
    """Every text once by every reward that scores a text alone; `moment` is the run's."""
    alone = [each for each in objectives if each.scores_alone]
    columns = score_responses(alone, texts, execution, moment=moment)
    return {text: {name: known(column[i]) for name, column in columns.items()} for i, text in enumerate(texts)}


def by_kind(rows: Sequence[Row], inputs: Inputs, objectives: Sequence[Objective], rewards: TrueRewards) -> list[Table]:
    """Mean true reward of each kind of response, over all these rows and over those with a chosen response; of those
    texts that no judge refused, which `texts` counts.
    """
    measured = [each for each in objectives if each.scores_alone]
    if not measured:
        return []
    columns = ["response", "texts", *(f"{each.name}, {better(each.direction)}" for each in measured)]
    names = [each.name for each in objectives]

    def means(texts: Sequence[Item]) -> list[Cell]:
        scored = [rewards[text] for text in texts if None not in rewards[text].values()]
        columns = [[each[name] or 0.0 for each in scored] for name in (each.name for each in measured)]
        return [len(scored), *(fmean(column) if column else None for column in columns)]

    def table(part: Sequence[Row], caption: str) -> Table:
        kinds = [(kind, texts) for kind, texts in _kinds(part, inputs, names) if texts and kind != "original"]
        return Table(columns, [[kind, *means(texts)] for kind, texts in kinds], caption)

    chosen = [row for row in rows if row.id in inputs.chosen]
    tables = [table(rows, "Over the one row worked on." if len(rows) == 1 else f"Over all {len(rows)} rows worked on.")]
    if chosen:
        tables.append(table(chosen, f"Over the {quantity(len(chosen), 'row')} with a chosen response."))
    return tables


def _kinds(rows: Sequence[Row], inputs: Inputs, objectives: Sequence[str]) -> list[tuple[str, list[Item]]]:
    """The texts of these rows by kind; chosen ones last."""
    prompts = {row.key: row.prompt for row in rows}
    samples = [Item(prompts[each.prompt], each.response) for each in inputs.samples if each.prompt in prompts]
    rewrites = [Item(prompts[each.prompt], each.rewrite) for each in inputs.refinements if each.prompt in prompts]
    chosen = inputs.chosen
    return [
        ("original", [Item(row.prompt, response) for row in rows for response in inputs.originals[row.id]]),
        *((f"preferred by {name}", _preferred(rows, inputs, name)) for name in objectives),
        ("samples", samples),
        ("rewrites", rewrites),
        ("chosen", [Item(row.prompt, chosen[row.id].response) for row in rows if row.id in chosen]),
    ]


def _preferred(rows: Iterable[Row], inputs: Inputs, objective: str) -> list[Item]:
    labelled = ((row, row.preferred[objective]) for row in rows)
    return [Item(row.prompt, inputs.originals[row.id][label]) for row, label in labelled if label is not None]
