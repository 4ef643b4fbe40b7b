"""Tables on disk: JSON lines of a dataclass, or Parquet of plain records; whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Record = TypeVar("Record")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_records(path: Path, records: Iterable[Any]) -> None:
    """One JSON line a record; records are dataclasses or mappings."""
    plain = (record if isinstance(record, Mapping) else asdict(record) for record in records)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in plain))


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The dataclasses that `write_records` wrote."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # splitlines would also split at U+2028 and the like
    return [kind(**{k: v for k, v in json.loads(line).items() if k in names}) for line in lines]


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_parquet(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """At most `rows` rows at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(rows, use_threads=False)
