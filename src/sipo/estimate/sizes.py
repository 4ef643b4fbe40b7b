"""How many rows a run works on: counted, from the card of prepared rows, or as the paper states it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sipo.config import Config
from sipo.declare.work import Sizes
from sipo.methods.registry import improves
from sipo.stages.answer import test_rows
from sipo.stages.sample import one_row_a_prompt, worked_rows
from sipo.task import Task


@dataclass(frozen=True)
class Stated:
    """Rows to train and to validate on, and test prompts; `conflicting` is the share of the training rows."""

    train: int
    validation: int
    test: int
    conflicting: float
    said: str


PAPER: Mapping[str, Stated] = {
    "beavertails": Stated(9000, 1000, 500, 0.5383, "the paper's BeaverTails (SIPO, section 4.1)"),
    "helpsteer": Stated(970, 216, 188, 0.6, "the paper's HelpSteer with 60 % in conflict (SIPO, section 4.1)"),
}
"""By `data.source`, else by the folder that rows were prepared into: `sipo data prepare helpsteer --to data/helpsteer`.
"""


def counted(task: Task) -> Sizes:
    train = task.splits.train
    rows = worked_rows(task) if improves(task.config.methods) else []
    prompts = {row.key for row in test_rows(task)}
    return Sizes(
        len(train),
        len(task.splits.validation),
        len(test_rows(task)),
        sum(row.key in prompts for row in task.splits.test),
        tuple(sum(row.preferred[name] is not None for row in train) for name in task.objectives),
        len(rows),
        len(one_row_a_prompt(rows)),
        "counted",
    )


def planned(config: Config) -> Sizes:
    """For rows that are not here, at most: no ties, and a prompt a row."""
    known = stated(config)
    assert known is not None  # whoever plans has asked
    train = min(known.train, config.data.train_rows or known.train)
    ratio = known.conflicting if config.data.conflict_ratio is None else config.data.conflict_ratio
    conflicting = round(ratio * train)
    worked = {"conflicting": conflicting, "non-conflicting": train - conflicting, "all": train}[config.sample.rows]
    worked = min(worked, config.sample.prompts or worked) if improves(config.methods) else 0
    test = min(known.test, config.evaluate.prompts or known.test)
    return Sizes(train, known.validation, test, test, (train,) * len(config.objectives), worked, worked, known.said)


def stated(config: Config) -> Stated | None:
    """From the card beside the rows, else from the paper; None where neither tells."""
    path, data = config.data.path, config.data
    card = path.parent / "README.md"
    paper = PAPER.get(data.source.name if data.source else path.parent.name)
    if not card.is_file():
        return paper
    found = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| ([\d.]+)% \|$", card.read_text(encoding="utf-8"), re.MULTILINE)
    parts = {name: (int(rows), int(prompts), float(percent) / 100) for name, rows, prompts, percent in found}
    if "train" in parts:
        rows, _, share = parts["train"]
        test = parts["test"][1] if "test" in parts else 0
        return Stated(rows, parts["validation"][0] if "validation" in parts else 0, test, share, f"the card {card}")
    if "all" in parts:
        rows, prompts, share = parts["all"]
        train = round(rows * (1 - data.validation - data.test))
        return Stated(
            train, round(rows * data.validation), round(prompts * data.test), share, f"the card {card}, split by shares"
        )
    return paper
