"""Rows in other tools' formats, one file for each objective: the pairs for which it has a preference."""

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

from sipo.data.cleaning import NAME
from sipo.data.columns import unread_of
from sipo.data.rows import objectives_of, read_rows
from sipo.data.sources import llama_factory, trl
from sipo.data.sources.reading import split_named
from sipo.disk.appearing import appearing
from sipo.errors import SipoError

WRITERS = {**trl.WRITERS, **llama_factory.WRITERS}


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
    if format not in WRITERS:
        raise SipoError(f"--format {format}: no such format; they are {', '.join(WRITERS)}")
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
                    record = WRITERS[format](row, label)
                except SipoError as problem:
                    raise SipoError(f"{path} row {number}: {problem}") from None
                file = f"{name}/{row.split}.jsonl" if row.split else f"{name}.jsonl"
                if file not in files:
                    (folder / file).parent.mkdir(exist_ok=True)
                    files[file] = stack.enter_context((folder / file).open("w", encoding="utf-8"))
                files[file].write(json.dumps(record, ensure_ascii=False) + "\n")
                counts[file] += 1
        if format in llama_factory.WRITERS:
            about = {_entry(file): llama_factory.description(file, format) for file in sorted(counts)}
            (folder / "dataset_info.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Converted(dict(sorted(counts.items())), unread_of(rows))


def _entry(file: str) -> str:
    return file.removesuffix(".jsonl").replace("/", "-")
