"""Records in files, as JSON lines or Parquet: how they are found, read and written, not what they mean."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from sipo.errors import SipoError

SUFFIXES = (".jsonl", ".json", ".parquet")


def read_records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Every record of a file with its place: `line 3` in JSON lines, `row 3` in Parquet, both counted from 1.

    Parquet is read for these columns only, unless some are missing: then for all, to say what is there.
    Raises SipoError for a file that is missing, of another kind, or corrupt.
    """
    if not path.is_file():
        raise SipoError(f"{path}: {_what_is_there(path)}")
    _check_suffix(path)
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_records(path, columns)
        else:
            yield from _json_records(path)
    except OSError as error:
        raise SipoError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions and the disk"
        ) from None


def write_records(path: Path, records: Sequence[dict[str, Any]], objectives: Sequence[str]) -> None:
    """Write the records of rows by the file's suffix; the file appears whole or not at all.

    Raises SipoError where the folder cannot be written, for instance on a full disk.
    """
    _check_suffix(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if path.suffix.lower() == ".parquet":
                _write_parquet(file, records, objectives)
            else:
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                file.writelines(line.encode() for line in lines)
        os.replace(temporary, path)
    except OSError as error:
        raise SipoError(
            f"{path}: cannot be written ({error.strerror or error}); free space or name another place"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        kind = f"a file ending in {path.suffix}" if path.suffix else "a name without an ending"
        raise SipoError(f"{path}: {kind} is no file of rows; use {' or '.join(SUFFIXES)}")


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return f"is a folder; name a {' or '.join(SUFFIXES)} file in it"
    if not path.parent.is_dir():
        return f"no such file, and no folder {path.parent}; check the path"
    names = sorted(other.name for other in path.parent.iterdir() if other.suffix.lower() in SUFFIXES)
    near = get_close_matches(path.name, names, n=1)
    return f"no such file; did you mean `{near[0]}`?" if near else "no such file; check the path"


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:  # in bytes, so that a wrong encoding has a line number
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                yield place, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise SipoError(f"{path} {place}: not UTF-8; save the file again in that encoding") from None
            except (ValueError, RecursionError) as error:
                way_out = "write one object a line (`jq -c .` does, and `jq -c .[]` for an array)"
                raise SipoError(f"{path} {place}: not JSON ({error}); {way_out}") from None


def _parquet_records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa  # here, because whoever reads JSON lines should not wait for it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            complete = set(columns) <= set(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=4096, columns=list(columns) if complete else None):
                for record in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield f"row {number}", record
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise SipoError(f"{path}: not a readable Parquet file ({error}); write or download it again") from None


def _write_parquet(file: BinaryIO, records: Sequence[dict[str, Any]], objectives: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    if any(not isinstance(record["prompt"], str) for record in records):  # a column has one type
        records = [{**record, "prompt": _as_chat(record["prompt"])} for record in records]
        prompt = chat
    else:
        prompt = pa.string()
    preferred = pa.struct({name: pa.int8() for name in objectives})
    columns = {"prompt": prompt, "response_0": pa.string(), "response_1": pa.string(), "preferred": preferred}
    pq.write_table(pa.Table.from_pylist(records, schema=pa.schema(columns)), file)


def _as_chat(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
