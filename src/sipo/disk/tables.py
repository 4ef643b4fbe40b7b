"""Tables on disk: JSON lines of a dataclass, or Parquet of plain records; whole or not at all, and read as written."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sipo.disk.damage import DamageError, reading
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
    """One JSON line a record; records are dataclasses or mappings."""
    plain = (record if isinstance(record, Mapping) else asdict(record) for record in records)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in plain))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The mappings that `write_records` wrote."""
    with reading(path):
        *lines, rest = path.read_text(encoding="utf-8").split(
            "\n"
        )  # splitlines would also split at U+2028 and the like
        if rest:
            raise DamageError(path, "its last line is cut")
        return [dict(json.loads(line)) for line in lines]


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The dataclasses that `write_records` wrote."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    records = read_lines(path)
    with reading(path):
        return [kind(**{k: v for k, v in record.items() if k in names}) for record in records]


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with replacing(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_parquet(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """At most `rows` rows at a time."""
    with reading(path), pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(rows, use_threads=False)
