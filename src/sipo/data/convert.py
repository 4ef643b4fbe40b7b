"""Rows in other tools' formats, one file for each objective: the pairs for which it has a preference."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sipo.data.cleaning import NAME
from sipo.data.columns import unread_of
from sipo.data.rows import Row, objectives_of, read_rows
from sipo.data.sources import llama_factory, trl
from sipo.data.sources.reading import split_named
from sipo.disk.appearing import appearing
from sipo.errors import SipoError
from sipo.words import nearest

Writer = Callable[[Row, int], dict[str, Any]]
WRITERS: dict[str, Writer] = {**trl.WRITERS, **llama_factory.WRITERS}


class Converted(NamedTuple):
    pairs: dict[str, int]
    """How many each file has."""
    unread: dict[str, int]
    """Columns that are in none of them, and for how many prompts the rows differ in them."""


def convert(path: Path, to: Path, format: str) -> Converted:
    """Make the folder `to`, whole or not at all.

    The files are `<objective>.jsonl`, or `<objective>/<split>.jsonl` where rows have splits, so that nobody trains on
    what they will test on. Raises SipoError, among others for a chat that the format has no place for.
    """
    write = writer(format)
    rows = read_rows(path)
    names = objectives_of(rows)
    for name in names:
        if not NAME.fullmatch(name) or split_named(name):
            raise SipoError(f"{path}: the objective `{name}` cannot name a file; call it something else")
    counts: Counter[str] = Counter()
    with appearing(to) as folder, ExitStack() as stack:
        files: dict[str, TextIO] = {}
        for number, row in enumerate(rows, 1):
            for name, label in row.preferred.items():
                if label is None:
                    continue
                try:
                    record = write(row, label)
                except SipoError as problem:
                    raise SipoError(f"{path} row {number}: {problem}") from None
                file = f"{name}/{row.split}.jsonl" if row.split else f"{name}.jsonl"
                if file not in files:
                    (folder / file).parent.mkdir(exist_ok=True)
                    files[file] = stack.enter_context((folder / file).open("w", encoding="utf-8"))
                files[file].write(json.dumps(record, ensure_ascii=False) + "\n")
                counts[file] += 1
        describe(folder, sorted(counts), format)
    return Converted(dict(sorted(counts.items())), unread_of(rows))


def writer(format: str) -> Writer:
    """What makes a record of a row and the index of its better response. Raises SipoError where there is none such."""
    if format not in WRITERS:
        near = nearest(format, WRITERS)
        hint = f"did you mean {near}?" if near else f"they are {', '.join(WRITERS)}"
        raise SipoError(f"--format {format}: no such format; {hint}")
    return WRITERS[format]


def describe(folder: Path, files: Iterable[str], format: str) -> None:
    """Say beside the files what is in them, where the format wants that."""
    if format in llama_factory.WRITERS:
        about = {_entry(file): llama_factory.description(file, format) for file in files}
        (folder / "dataset_info.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _entry(file: str) -> str:
    return file.removesuffix(".jsonl").replace("/", "-")
