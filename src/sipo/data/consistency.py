"""What is odd about rows: misspelt objectives, circles among a prompt's responses, rendered texts, constant labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from graphlib import CycleError, TopologicalSorter
from itertools import groupby, permutations
from typing import TYPE_CHECKING

from sipo.errors import SipoError
from sipo.words import quantity

if TYPE_CHECKING:  # rows are read with this
    from sipo.data.rows import Row

ALIKE = 0.8
"""How much of two names agrees where one may be the other misspelt."""
RARE = 3
"""The misspelt one has at most one in so many labels of the other, or just one."""
MARK = re.compile(
    r"<[|\uff5c][^|\uff5c<>\s]{1,40}[|\uff5c]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
)
"""How the special tokens of chat formats are written."""
WRITTEN_TURNS = (
    (r"^### ?(?:Instruction|Human|User|Question)\b", r"^### ?(?:Response|Assistant|Answer)\b"),
    (r"(?:^|\s)(?:USER|User|Human):", r"(?:^|\s)(?:ASSISTANT|Assistant|AI|Bot):"),
)
"""How Alpaca and Vicuna, and who came after them, open the user's turn and the assistant's."""
FEW = 10
"""Rows below which an objective that always prefers the same response may do so by chance."""


def check_spelling(place: str, labelled: Mapping[frozenset[str], int]) -> None:
    """Raise SipoError where an objective looks like another one misspelt. `labelled`: how many rows have labels for
    which objectives.

    They are alike, no row has both, and one is rare. Names that differ in digits alone are meant.
    """
    counts: Counter[str] = Counter()
    for names, rows in labelled.items():
        counts.update(dict.fromkeys(names, rows))
    together = {pair for names in labelled for pair in permutations(names, 2)}
    for rare, common in permutations(counts, 2):
        few = counts[rare] == 1 or RARE * counts[rare] <= counts[common]
        if few and counts[rare] <= counts[common] and (rare, common) not in together and _alike(rare, common):
            raise SipoError(
                f"{place}: `{rare}` has labels in {counts[rare]} rows, `{common}` in {counts[common]}, and no row has "
                f"both; is it `{common}` misspelt? Then mend it, else give it a name less alike"
            )


def written_mark(text: str) -> str | None:
    """The first special token of a usual chat format that is written in a text."""
    found = MARK.search(text)
    return found[0] if found else None


def written_turns(text: str) -> str | None:
    """How a text opens the user's turn, where it has the assistant's after it, as a template writes them."""
    for user, assistant in WRITTEN_TURNS:
        found = re.search(user, text, re.MULTILINE)
        if found and re.search(assistant, text[found.end() :], re.MULTILINE):
            return found[0].strip()
    return None


def doubts(
    rows: "Iterable[Row]", objectives: Sequence[str], mark: Callable[[str], str | None] = written_mark
) -> list[str]:
    """Lines for people about rows that can hardly all be right; none where there is nothing to say. The rows of a
    prompt stand together. `mark`: the first special token that is written in a text, by a model's tokenizer.
    """
    marked: list[str] = []
    written: list[str] = []
    labels = {name: Counter[int | None]() for name in objectives}
    circles: Counter[str] = Counter()
    for _, of_prompt in groupby(rows, key=lambda row: row.key):
        graphs: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in objectives}
        for row in of_prompt:
            texts = (*(message.content for message in row.prompt), *row.responses)
            if found := next(filter(None, map(mark, texts)), None):
                marked.append(f"{found} with the prompt {row.prompt[-1].content[:40]!r}" if not marked else "")
            if found := next(filter(None, map(written_turns, texts)), None):
                written.append(f"{found!r} in {row.prompt[-1].content[:40]!r}" if not written else "")
            for name in objectives:
                label = row.preferred.get(name)
                labels[name][label] += 1
                if label is not None:
                    graphs[name][row.responses[label].strip()].add(row.responses[1 - label].strip())
        circles.update(name for name, graph in graphs.items() if _has_circle(graph))
    lines = []
    if marked:
        lines.append(
            f"special tokens are written in {quantity(len(marked), 'row')}, the first {marked[0]}; they are read as "
            "text. Where the rows were rendered with a chat template, give the messages themselves"
        )
    if written:
        lines.append(
            f"turns are written into the text of {quantity(len(written), 'row')}, the first {written[0]}; they are "
            "read as one turn's words, and the model's own chat format goes round them. Give the messages, or the "
            "question alone"
        )
    for name in objectives:
        if circles[name]:
            lines.append(
                f"`{name}`: for {quantity(circles[name], 'prompt')} its labels go in a circle, a over b, b over c, c "
                "over a; they cannot all be right"
            )
        for index in (0, 1):
            if labels[name][index] >= FEW and not labels[name][1 - index]:
                lines.append(
                    f"`{name}` prefers response {index} in all {labels[name][index]} rows that have its label; so it "
                    "is where files have chosen and rejected, else look at its labels"
                )
    return lines


def _has_circle(graph: Mapping[str, set[str]]) -> bool:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def _alike(one: str, other: str) -> bool:
    first, second = (_letters(name) for name in (one, other))
    if _letters(one, digits=False) == _letters(other, digits=False) and first != second:
        return False
    return SequenceMatcher(None, first, second).ratio() >= ALIKE


def _letters(name: str, digits: bool = True) -> str:
    return "".join(c for c in name.casefold() if c.isalpha() or (digits and c.isdigit()))
