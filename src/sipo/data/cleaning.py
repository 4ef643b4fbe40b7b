"""Which of a source's rows are kept: those that compare something, each pair once, within the user's limits."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sipo.data.columns import unread_by_prompt
from sipo.data.consistency import check_spelling
from sipo.data.rows import Row
from sipo.data.sources.grouping import grouped, pack, unpack
from sipo.data.sources.interface import Dropped
from sipo.errors import SipoError
from sipo.message import Message
from sipo.words import nearest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
Ties = Literal["any", "all"]


@dataclass(frozen=True)
class Choice:
    """What to make of a source; the defaults keep all that can be compared."""

    format: str | None = None
    objectives: tuple[str, ...] = ()
    """In this order; empty is all that the source has."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the source calls each column that a format needs; other names are objectives."""
    minimize: tuple[str, ...] = ()
    """Objectives that prefer the other response: the smaller score is better."""
    drop_ties: Ties | None = None
    """Leave out rows without a preference for any one objective, or for all of them."""
    max_tokens: int | None = None
    """Longest prompt and response together, without the tokens of a chat template."""
    tokenizer: str | None = None
    seed: int = 0
    """Of the splits that the source does not state."""
    parquet: bool = False


class Cleaning:
    """From the source's rows to those that are kept, a prompt at a time."""

    def __init__(self, choice: Choice, rows: Iterable[Row | Dropped]) -> None:
        self.choice, self.rows, self.measure = choice, rows, _measure(choice)
        self.names: dict[str, None] = {}
        self.dropped: Counter[str] = Counter()
        self.contradictions = 0
        self.unread: dict[str, int] = {}
        """Columns that nobody reads, and for how many prompts the rows differ in them."""
        self.labelled: Counter[frozenset[str]] = Counter()
        """How many rows have a label for which objectives."""

    def objectives(self, place: str) -> tuple[str, ...]:
        """Those asked for, or all; known once the source has been read."""
        check_spelling(place, self.labelled)
        return objectives_among(place, tuple(self.names), self.choice.objectives, self.choice.minimize)

    def prompts(self) -> Iterator[list[Row]]:
        """The kept rows of each prompt."""
        groups = grouped((row.key, pack(row)) for row in self._usable())
        for group in groups:
            rows = [unpack(row) for row in group]
            unread_by_prompt(self.unread, [row.unread for row in rows])
            yield [row for row in self._merged(rows) if self._kept(row)]

    def _usable(self) -> Iterator[Row]:
        for row in self.rows:
            reason = row.reason if isinstance(row, Dropped) else unusable(row.prompt, row.responses)
            if reason or isinstance(row, Dropped):
                self.dropped[reason] += 1
                continue
            self.names.update(dict.fromkeys(row.preferred))
            self.labelled[frozenset(name for name, label in row.preferred.items() if label is not None)] += 1
            yield row

    def _merged(self, rows: Iterable[Row]) -> list[Row]:
        """Each pair once, with all its labels; contradicting ones are null."""
        pairs: dict[tuple[str, ...], Row] = {}
        torn: set[tuple[tuple[str, ...], str]] = set()
        for row in rows:
            pair = (row.split or "train", *sorted(map(str.strip, row.responses)))  # a test label stays out of training
            first = pairs.setdefault(pair, row)
            if first is row:
                continue
            self.dropped["the same pair again, its labels added to the first"] += 1
            for name, label in row.preferred.items():
                if label is not None and row.responses[0].strip() != first.responses[0].strip():
                    label = 1 - label
                known = first.preferred.get(name)
                if (pair, name) in torn or label is None:
                    continue
                if known is not None and known != label:
                    torn.add((pair, name))
                    self.contradictions += not self.choice.objectives or name in self.choice.objectives
                    label = None
                first.preferred[name] = label
        return list(pairs.values())

    def _kept(self, row: Row) -> bool:
        names = self.choice.objectives or tuple(self.names)
        for name in self.choice.minimize:
            if (label := row.preferred.get(name)) is not None:
                row.preferred[name] = 1 - label
        ties = [row.preferred.get(name) is None for name in names]
        if self.choice.drop_ties and (any if self.choice.drop_ties == "any" else all)(ties):
            which = "at least one" if self.choice.drop_ties == "any" else "any"
            self.dropped[f"no preference for {which} objective"] += 1
            return False
        if self.measure and self.choice.max_tokens and self.measure(row) > self.choice.max_tokens:
            self.dropped[f"over {self.choice.max_tokens} tokens of prompt and response"] += 1
            return False
        return True


def objectives_among(
    place: str, known: tuple[str, ...], asked: tuple[str, ...], minimize: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The objectives asked for, or all. Raises SipoError for one that is not known, or cannot be called so."""
    if twice := next((name for name in asked if asked.count(name) > 1), None):
        raise SipoError(f"--objectives: `{twice}` is there twice; name it once")
    for name in (*asked, *minimize):
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean `{near}`?" if near else f"it has {', '.join(known) or 'none'}"
            raise SipoError(f"{place}: has no objective `{name}`; {hint}")
    names = asked or known
    for name in names:
        if not NAME.fullmatch(name):
            raise SipoError(
                f"{place}: `{name}` is no name for an objective (letters, digits, _ and -, a letter first); "
                f"give another: rename it in `preferred`, or a column by --map helpful={name!r}, or say what a file of "
                "one label holds by --objectives helpful"
            )
    return names


def unusable(prompt: Sequence[Message], responses: Sequence[str]) -> str:
    """Why nothing can be made of a prompt and one response to it, or two that are compared; else an empty text."""
    if not prompt or not prompt[-1].content.strip():
        return "an empty prompt"
    if prompt[-1].role != "user":
        return "a prompt that does not end with the user's turn"
    if not all(response.strip() for response in responses):
        return "an empty response"
    if len({response.strip() for response in responses}) < len(responses):
        return "two identical responses"
    try:
        "".join([*(turn.content for turn in prompt), *responses]).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    return ""


def _measure(choice: Choice) -> Callable[[Row], int] | None:
    """The tokens of a row's prompt and its longer response."""
    if choice.max_tokens is None:
        return None
    if choice.tokenizer is None:
        raise SipoError("--max-tokens needs a tokenizer to count with; add --tokenizer, as model.path in a run.yaml")
    from sipo.models.locate import locate
    from sipo.models.pretrained import Origin, read_tokenizer

    inside = choice.tokenizer.startswith("package:") or choice.tokenizer.endswith(".gguf")  # a model with it within
    try:
        source = locate(choice.tokenizer)[0] if inside else choice.tokenizer
    except SipoError as problem:
        raise SipoError(f"--tokenizer: {problem}") from None
    tokenizer = read_tokenizer(Origin(source, Path(source).is_dir(), name=f"tokenizer {choice.tokenizer}"))

    @lru_cache(maxsize=256)
    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return lambda row: sum(count(turn.content) for turn in row.prompt) + max(map(count, row.responses))
