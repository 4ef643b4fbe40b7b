"""What a reward model learns from, out of any source of preference data: scores where it has them, else pairs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sipo.data.cleaning import Choice, Cleaning, objectives_among, unusable
from sipo.data.labels import Split
from sipo.data.rows import key_of
from sipo.data.sources.finding import find
from sipo.data.sources.interface import Answer, Dropped
from sipo.data.splits import split_of
from sipo.rewards.interface import Item

Kind = Literal["pairs", "scores"]


@dataclass(frozen=True)
class Example:
    """Two responses that are compared, or one that has scores."""

    items: tuple[Item, ...]
    values: tuple[float | None, ...]
    """By objective: of two responses the index of the better one, of one its score. None where it is not known."""
    split: Split | None = None

    @property
    def prompt(self) -> str:
        """Names the prompt."""
        return key_of(self.items[0].prompt)


@dataclass(frozen=True)
class Examples:
    """No prompt is in both `train` and `held_out`."""

    kind: Kind
    objectives: tuple[str, ...]
    train: list[Example]
    held_out: list[Example]
    left_out: Counter[str]
    """How many, by why."""


def read_examples(
    name: str,
    *,
    objectives: tuple[str, ...] = (),
    columns: Mapping[str, str] | None = None,
    held_out: float = 0.1,
    seed: int = 0,
) -> Examples:
    """The examples of a known data set, a hub id, a file or a folder, for the objectives asked for, or all.

    Held out is what the source has in another split than training, else a share of the prompts. Raises SipoError
    for the first thing that is wrong.
    """
    found = find(name, None, columns, objectives)
    left_out: Counter[str] = Counter()
    if (answers := found.answers) is not None:
        kind: Kind = "scores"
        usable = list(_usable(answers, left_out))
        names = objectives_among(name, tuple(dict.fromkeys(each for one in usable for each in one.scores)), objectives)
        examples = [_scored(answer, names) for answer in usable]
    else:
        kind = "pairs"
        cleaning = Cleaning(Choice(objectives=objectives), found.rows)
        rows = [row for of_prompt in cleaning.prompts() for row in of_prompt]
        names = cleaning.objectives(name)
        left_out.update(cleaning.dropped)
        if cleaning.contradictions:
            left_out["a label that the same pair also has the other way round"] = cleaning.contradictions
        examples = [
            Example(
                tuple(Item(row.prompt, response) for response in row.responses),
                tuple(row.preferred.get(each) for each in names),
                row.split,
            )
            for row in rows
        ]
    known = [example for example in examples if any(value is not None for value in example.values)]
    if len(known) < len(examples):
        left_out["no label or score"] += len(examples) - len(known)
    train, measured = _split(known, held_out, seed, left_out)
    return Examples(kind, names, train, measured, left_out)


def _usable(answers: Iterable[Answer | Dropped], left_out: Counter[str]) -> Iterator[Answer]:
    for answer in answers:
        if isinstance(answer, Dropped):
            left_out[answer.reason] += 1
        elif reason := unusable(answer.prompt, [answer.response]):
            left_out[reason] += 1
        else:
            yield answer


def _scored(answer: Answer, names: Sequence[str]) -> Example:
    values = tuple(answer.scores.get(name) for name in names)
    return Example((Item(answer.prompt, answer.response),), values, answer.split)


def _split(
    examples: Sequence[Example], share: float, seed: int, left_out: Counter[str]
) -> tuple[list[Example], list[Example]]:
    stated = len({example.split or "train" for example in examples}) > 1  # one split alone says nothing
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        split = example.split or "train" if stated else split_of(example.prompt, seed, 0.0, share)
        (train if split == "train" else held_out).append(example)
    taught = {example.prompt for example in train}
    unseen = [example for example in held_out if example.prompt not in taught]
    if len(unseen) < len(held_out):
        left_out["a held-out prompt that training has"] += len(held_out) - len(unseen)
    return train, unseen
