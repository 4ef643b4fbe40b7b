"""Tables on disk: JSON lines of a dataclass, or Parquet of plain records; whole or not at all, and read as written."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_origin

import pyarrow as pa
import pyarrow.parquet as pq

from sipo.disk.damage import DamageError, reading
from sipo.disk.once import alike, named, parse
from sipo.disk.publishing import replacing

Record = TypeVar("Record")

CHECK = "sha256 of the rest"
"""No name of an objective, which some mappings have as keys."""


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as scratch:
        scratch.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises DamageError, as do the other readers, for what is not a file of ours."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """A mapping as JSON with a digest of itself, so that not even a changed digit in it goes unseen."""
    write_json(path, {**value, CHECK: check_of(value)})


def read_checked(path: Path, known_by: str | None = None) -> dict[str, Any]:
    """What `write_checked` wrote. A mapping without a digest, of before there were any, is taken as it is, unless it
    has the key that it is `known_by` to be no such one.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamageError(path, "it holds no mapping")
    check = value.pop(CHECK, None)
    if check != check_of(value) and (check is not None or known_by in value):
        raise DamageError(path, "its content changed")
    return value


def check_of(value: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(value))  # keys that are no text, say, are text then
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def write_records(path: Path, records: Iterable[Any]) -> None:
    """One JSON line a record, as they come; records are mappings, or dataclasses that hold what JSON does."""
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            plain = (
                record
                if isinstance(record, Mapping)
                else {each.name: getattr(record, each.name) for each in fields(record)}
            )
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The mappings that `write_records` wrote."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with reading(path), path.open(encoding="utf-8", newline="\n") as file:  # U+2028 and the like end no line
        for line in file:
            if not line.endswith("\n"):
                raise DamageError(path, "its last line is cut")
            yield dict(parse(line))


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The dataclasses that `write_records` wrote; what one has in common with the one before it is held once."""
    kinds = {field.name: get_origin(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    records: list[Record] = []
    before: dict[str, Any] = {}
    for line in _lines(path):
        with reading(path):
            given = {
                name: tuple(value) if kinds[name] is tuple else alike(named(value), before.get(name))
                for name, value in line.items()
                if name in kinds
            }
            records.append(kind(**given))
        before = given
    return records


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with replacing(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_parquet(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """At most `rows` rows at a time."""
    with reading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(rows, use_threads=False)
