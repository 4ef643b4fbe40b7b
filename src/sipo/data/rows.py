"""Preference rows: a prompt, two responses, and which of them each objective prefers.

A file of rows is JSON lines (.jsonl, .json) or Parquet (.parquet) with four columns:

    prompt       a string, or chat messages {role, content} of which the last is the user's
    response_0   a string
    response_1   a string
    preferred    a mapping from objective to 0, 1 or null (a tie, or not labelled)

and, where the data set states it, a fifth: `split`, one of train, validation and test for all rows of a prompt, or
null. Columns that belong to the prompt (`sipo.data.context`) are read into it, others are named and not read. Reading
checks all of it, so that nothing later has to.
"""

import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from sipo.data._files import read_records, write_records
from sipo.data.chats import UnusableError, answered, kind_of
from sipo.data.columns import Columns
from sipo.data.consistency import check_spelling
from sipo.data.labels import Split, as_label, as_split
from sipo.data.prompts import parse_prompt, parse_text, text_of
from sipo.disk.content import short_digest
from sipo.errors import SipoError
from sipo.message import Message
from sipo.words import nearest

COLUMNS = ("prompt", "response_0", "response_1", "preferred")


NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; `preferred` maps each objective to the index of the better response, 0 or 1, or None.

    >>> labels = {"detail": 1, "plain": 0}
    >>> row = sipo.Row((sipo.Message("user", "How do I swim?"),), ("Kick.", "Kick and breathe out."), labels)
    >>> row.sign("detail"), row.conflicting(labels)
    (1.0, True)
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, str]
    preferred: dict[str, int | None]
    split: Split | None = None
    """Where the data set has put the prompt; None leaves it to the run."""
    unread: Mapping[str, int] = field(default_factory=lambda: NOTHING, compare=False)
    """Columns that stood beside it and that nobody reads, with a digest of each (`sipo.data.columns`)."""
    _key: str = field(default="", init=False, repr=False, compare=False)
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Names the prompt: 16 hex digits, the same for a plain string and that text as one user message."""
        if not self._key:
            object.__setattr__(self, "_key", key_of(self.prompt))
        return self._key

    @property
    def id(self) -> str:
        """Names the comparison, whatever its labels: 16 hex digits of the prompt and both responses."""
        if not self._id:
            object.__setattr__(self, "_id", short_digest("\x1f".join((self.key, *self.responses))))
        return self._id

    @property
    def text(self) -> str:
        """The prompt for people to read: the user's text, or one `role: content` a line of a longer chat."""
        return text_of(self.prompt)

    def sign(self, objective: str) -> float:
        """p of the objective: +1 where it prefers response 1, -1 where response 0, 0 for a tie or no label."""
        label = self.preferred[objective]
        return 0.0 if label is None else 2.0 * label - 1.0

    def conflicting(self, objectives: Iterable[str]) -> bool:
        """Whether any two of these objectives prefer different responses; ties do not count."""
        return len({self.preferred.get(name) for name in objectives} - {None}) > 1

    def as_record(self) -> dict[str, Any]:
        """The row as the file has it, with a single user message as a plain string."""
        plain = len(self.prompt) == 1 and self.prompt[0].role == "user"
        return {
            "prompt": self.prompt[0].content if plain else [message._asdict() for message in self.prompt],
            "response_0": self.responses[0],
            "response_1": self.responses[1],
            "preferred": dict(self.preferred),
            **({"split": self.split} if self.split else {}),
        }


def key_of(prompt: Sequence[Message]) -> str:
    canonical = json.dumps([message._asdict() for message in prompt], sort_keys=True, separators=(",", ":"))
    return short_digest(canonical)


def objectives_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """All objectives that rows have labels for, in order of first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row.preferred))


def read_rows(path: Path, objectives: Sequence[str] | None = None) -> list[Row]:
    """The rows of a file in its order, every row with the same objectives: those asked for, or all.

    Labels of objectives not asked for are not looked at. Raises SipoError, one line with the file, the place
    and the way out, for the first thing that is wrong.

    >>> rows = sipo.read_rows("rows.jsonl", ["detail", "plain"])
    >>> len(rows), rows[0].text
    (40, 'tell me about how 0')
    """
    path = Path(path)
    rows: list[Row] = []
    prompts: dict[tuple[Message, ...], tuple[Message, ...]] = {}
    labelled: Counter[frozenset[str]] = Counter()
    for place, record in read_records(path):
        try:
            row = _parse_row(record, objectives)
        except UnusableError as why:
            raise SipoError(f"{path} {place}: {why}; mend it or leave the row out") from None
        except SipoError as problem:
            raise SipoError(f"{path} {place}: {problem}") from None
        rows.append(replace(row, prompt=prompts.setdefault(row.prompt, row.prompt)))
        labelled[frozenset(name for name, label in record["preferred"].items() if label is not None)] += 1
    check_spelling(str(path), labelled)
    if not rows:
        raise SipoError(f"{path}: no rows; each needs the columns {', '.join(COLUMNS)}")
    known = objectives_of(rows)
    names = known if objectives is None else tuple(objectives)
    if not names:
        raise SipoError(f'{path}: no row names an objective; label them, such as "preferred": {{"helpful": 0}}')
    for name in names:
        _check_objective(path, name, known, rows)
    same: dict[tuple[int | None, ...], dict[str, int | None]] = {}
    for at, row in enumerate(rows):
        labels = tuple(map(row.preferred.get, names))
        rows[at] = replace(row, preferred=same.setdefault(labels, dict(zip(names, labels, strict=True))))
    _check_contradictions(path, rows)
    _check_splits(path, rows)
    return rows


def _place(path: Path, number: int) -> str:
    """Where the record of so many before it stands: told of errors alone, so it is looked for, not kept."""
    return next(islice((place for place, _ in read_records(path)), number, None))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines or Parquet, by the suffix; the file appears whole or not at all.

    Raises SipoError for another suffix and for rows without any objective, OSError where the disk refuses.

    >>> rows = sipo.read_rows("rows.jsonl")
    >>> sipo.write_rows("few.parquet", rows[:10])
    >>> sipo.read_rows("few.parquet") == rows[:10]
    True
    """
    path = Path(path)
    objectives = objectives_of(rows)
    if not objectives:
        raise SipoError(f"{path}: no labelled rows to write; label some first")
    write_records(path, [row.as_record() for row in rows], objectives)


def _parse_row(record: object, objectives: Collection[str] | None) -> Row:
    if not isinstance(record, dict):
        raise SipoError(f"{kind_of(record)}, not an object; write one row a line, as {{{', '.join(COLUMNS)}}}")
    if not record.keys() >= set(COLUMNS):
        way_out = _schema_hint(record.keys())
        raise SipoError(f"has the columns {', '.join(record) or 'none'}; needs {', '.join(COLUMNS)}; {way_out}")
    columns = Columns(record)
    split = as_split(columns.get("split"), "split")
    prompt = parse_prompt(columns["prompt"], columns)
    texts = []
    for name in ("response_0", "response_1"):
        prompt, said = answered(columns[name], name, prompt)
        texts.append(parse_text(said if columns[name] is not None else None, name))
    if texts[0].strip() == texts[1].strip():
        raise SipoError("response_0 and response_1 are identical; leave the row out, it compares nothing")
    preferred = _labels(columns["preferred"], objectives)
    return Row(prompt, (texts[0], texts[1]), preferred, split, columns.unread or NOTHING)


def _schema_hint(columns: Collection[str]) -> str:
    if "better_response_id" in columns:
        names = '"helpful": better_response_id, "harmless": safer_response_id'
        return f"this looks like PKU-SafeRLHF: `sipo data prepare` reads it; or add preferred as {{{names}}}"
    if "chosen" in columns and "rejected" in columns:
        return (
            "this looks like TRL's format: `sipo data prepare` reads it; or rename chosen to response_0 and rejected "
            'to response_1, and add preferred, such as {"helpful": 0}, with a label for each objective'
        )
    if "response" in columns:
        return "this looks like single responses with scores: `sipo data prepare` can pair those of a prompt by score"
    return (
        "rename or add what is missing; or `sipo data prepare` makes rows of it, with --map prompt=COLUMN and the like"
    )


def _labels(value: object, objectives: Collection[str] | None) -> dict[str, int | None]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise SipoError(f'preferred is {kind_of(value)}; make it a mapping, such as {{"helpful": 0}}')
    wanted = value if objectives is None else objectives
    return {name: as_label(label, f"preferred.{name}") if name in wanted else None for name, label in value.items()}


def _check_objective(path: Path, name: str, known: Sequence[str], rows: Sequence[Row]) -> None:
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean `{near}`?" if near else f"it has {', '.join(known) or 'none'}"
        raise SipoError(f"{path}: no row has the objective `{name}`; {hint}")
    if all(row.preferred.get(name) is None for row in rows):
        raise SipoError(f"{path}: objective `{name}` never differs, it is null in every row; label or remove it")


def _check_contradictions(path: Path, rows: Sequence[Row]) -> None:
    """The same two responses to a prompt, in either order, must not have opposite labels."""
    pairs = array("q", (hash((row.prompt, *sorted(map(str.strip, row.responses)))) for row in rows))
    twice = {one for one, other in pairwise(sorted(pairs)) if one == other}
    seen: dict[tuple[tuple[Message, ...], tuple[str, ...], str], tuple[int, str]] = {}
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        if pair not in twice:
            continue
        responses = [response.strip() for response in row.responses]
        for name, label in row.preferred.items():
            if label is None:
                continue
            winner = responses[label]
            earlier, other = seen.setdefault((row.prompt, tuple(sorted(responses)), name), (number, winner))
            if winner != other:
                way_out = f"`{name}` prefers the other of the same two responses; keep one of the rows"
                raise SipoError(f"{path} {_place(path, number)}: contradicts {_place(path, earlier)}: {way_out}")


def _check_splits(path: Path, rows: Sequence[Row]) -> None:
    """A prompt in two splits would be trained on and tested on."""
    if not any(row.split for row in rows):
        return
    seen: dict[tuple[Message, ...], int] = {}
    for number, row in enumerate(rows):
        split = rows[earlier := seen.setdefault(row.prompt, number)].split
        if split != row.split:
            raise SipoError(
                f"{path} {_place(path, number)}: has the prompt of {_place(path, earlier)}, but the split "
                f"{row.split or 'null'} and not {split or 'null'}; put all rows of a prompt into one split"
            )
