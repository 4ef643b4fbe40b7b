"""From what the user names to records and the source that reads them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sipo.data.context import PARTS
from sipo.data.rows import Row
from sipo.data.sources.fields import take
from sipo.data.sources.hub import read_hub
from sipo.data.sources.interface import SPLIT_COLUMNS, Answer, Dropped, Hub, Known, Record, Source
from sipo.data.sources.reading import PACKED, SUFFIXES, read_path
from sipo.data.sources.registry import known_sets, sources
from sipo.disk.publishing import check_on_disk
from sipo.errors import SipoError
from sipo.words import nearest

STRUCTURE = (
    *("prompt", "instruction", "conversations", "preferred", *PARTS, *SPLIT_COLUMNS),
    *("response", "response_0", "response_1", "response_2", "response1", "response2"),
    *("chosen", "rejected", "completions"),
)
"""Columns that sources read and that are no objective."""


@dataclass(frozen=True)
class Found:
    source: Source
    known: Known | None
    records: Iterator[Record]
    """They are read once: as rows or as answers."""
    asked: tuple[str, ...]

    @property
    def rows(self) -> Iterator[Row | Dropped]:
        return self.source.rows(self.records, self.asked)

    @property
    def answers(self) -> Iterator[Answer | Dropped] | None:
        """None where the source has pairs, not responses with scores."""
        return self.source.answers(self.records, self.asked) if self.source.answers else None


def find(
    name: str, format: str | None = None, columns: Mapping[str, str] | None = None, objectives: tuple[str, ...] = ()
) -> Found:
    """The records of a known data set, a hub id, a file or a folder, and what reads them.

    `format` is a source or a known data set, whose rules then hold for a file; None recognises the schema. `columns`
    maps what a source reads to what the file calls it; names that no source reads are objectives. Raises SipoError
    for what is not there or is not recognised.
    """
    columns = columns or {}
    asked = objectives or tuple(column for column in columns if column not in STRUCTURE)
    source, known = told(format)
    called = asked[0] if len(asked) == 1 else None
    if Path(name).exists():
        records = read_path(Path(name), called)
    elif not on_hub(name):
        check_on_disk(name)
        near = nearest(name, known_sets())
        hint = f"did you mean `{near}`?" if near else f"or name one of {', '.join(known_sets())}, or a hub id"
        raise SipoError(f"{name}: no such file or folder; {hint}")
    elif name in known_sets():
        source, known = (source, known) if format else known_sets()[name]
        records = read_hub(known_sets()[name][1].parts, called)
    else:
        identity, _, config = name.partition(":")
        known = known or next((each for _, each in known_sets().values() if each.parts == (Hub(identity),)), None)
        records = read_hub([Hub(identity, config=config or None)], called)
    records = _renamed(_unmistaken(records, columns), columns)
    first = next(records, None)
    if first is None:
        raise SipoError(f"{name}: no records in it")
    source = source or _recognised(first)
    return Found(source, known, chain([first], records), asked)


def is_path(name: str) -> bool:
    """Whether the name can only be that of a file or folder, there or not."""
    return name.startswith((".", "/", "~")) or name.endswith((*SUFFIXES, ".gz", *PACKED))


def on_hub(name: str) -> bool:
    """Whether the name is of a known data set or a hub id, and no file or folder has it."""
    return not (Path(name).exists() or is_path(name)) and (name in known_sets() or name.count("/") == 1)


def told(format: str | None) -> tuple[Source | None, Known | None]:
    """The source, and the known data set, that a format names. Raises SipoError for one that is not known."""
    if format is None:
        return None, None
    if format in known_sets():
        return known_sets()[format]
    names = [source.name for source in sources()]
    if format not in names:
        near = nearest(format, [*names, *known_sets()])
        hint = f"did you mean `{near}`?" if near else f"they are {', '.join(dict.fromkeys([*names, *known_sets()]))}"
        raise SipoError(f"--format {format}: no such format; {hint}")
    return sources()[names.index(format)], None


def _unmistaken(records: Iterable[Record], columns: Mapping[str, str]) -> Iterator[Record]:
    """The records. Raises SipoError where labels that one source alone can read are taken for another's."""
    for number, record in enumerate(records):
        source = next((each for each in sources() if each.recognises(record.value)), None) if not number else None
        if source and (column := next((each for each in source.own if each in columns.values()), None)):
            raise SipoError(
                f"{record.place}: is of {source.name}, whose numbers in `{column}` mean other responses than in rows; "
                "leave --map out, so that they are read as its own, or rename the column where they are not"
            )
        yield record


def _renamed(records: Iterable[Record], columns: Mapping[str, str]) -> Iterator[Record]:
    for record in records:
        if not columns:
            yield record
            continue
        try:
            taken = {name: take(record.value, column) for name, column in columns.items()}
        except SipoError as problem:
            raise SipoError(f"{record.place}: {str(problem).partition(';')[0]}; {_has(record.value)}") from None
        rest = {
            f"{name} (not that of --map)" if name in columns else name: value
            for name, value in record.value.items()
            if name not in columns.values()
        }
        yield record._replace(value={**rest, **_named_labels(taken, columns)})


def _named_labels(taken: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Labels that are the name of the better response's column, as the name that it is read by."""
    called = {column: name for name, column in columns.items() if name in ("response_0", "response_1")}
    return {
        name: called.get(value, value) if name not in STRUCTURE and isinstance(value, str) else value
        for name, value in taken.items()
    }


def _has(value: Mapping[str, Any]) -> str:
    return f"--map names columns among {', '.join(value) or 'none'}"


def _recognised(record: Record) -> Source:
    source = next((source for source in sources() if source.recognises(record.value)), None)
    if source is None:
        known = "; ".join(f"{source.name} ({source.columns})" for source in sources())
        raise SipoError(
            f"{record.place}: has the columns {', '.join(record.value) or 'none'}, which no source knows; say which "
            f"they are, such as --map prompt=COLUMN --map response_0=COLUMN. Known are {known}"
        )
    return source
