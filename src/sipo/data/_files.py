"""Records in files, as JSON lines or Parquet: how they are found, read and written, not what they mean."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sipo.disk.publishing import check_on_disk, replacing
from sipo.errors import SipoError
from sipo.places import shown
from sipo.words import nearest

SUFFIXES = (".jsonl", ".json", ".parquet")
PREPARED = ("rows.jsonl", "rows.parquet")
"""What `sipo data prepare` calls the rows that it makes."""
BATCH = 4096
GZIP = b"\x1f\x8b"
FOREIGN = {
    ".gz": GZIP, ".zst": rb"\x28\xb5\x2f\xfd", ".bz2": rb"BZh\d1AY", ".xz": rb"\xfd7zXZ", ".zip": rb"PK\x03\x04",
    ".parquet": rb"PAR1[\x00-\x1f]",
}  # fmt: skip
"""How files begin that hold no text, whatever their names end in."""
OTHERS = "; `sipo data prepare` makes rows of CSV, of gzipped files, folders and data sets"


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record of a file with its place: `line 3` in JSON lines, `row 3` in Parquet, both counted from 1.

    Of a folder that `sipo data prepare` made, those of its rows. Raises SipoError for a file that is missing, of
    another kind, or corrupt.
    """
    path = next((path / name for name in PREPARED if path.is_dir() and (path / name).is_file()), path)
    if not path.is_file():
        raise SipoError(f"{path}: {_what_is_there(path)}")
    _check_suffix(path, OTHERS)
    try:
        if path.suffix.lower() == ".parquet":
            yield from parquet_records(path)
        else:
            with opened(path) as file:
                yield from json_lines(path, file)
    except OSError as error:
        raise unreadable(path, error) from None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a text file, unpacked where it is gzipped, whatever its name ends in.

    Raises SipoError for what is packed in another way, damaged, or no UTF-8.
    """
    try:
        with path.open("rb") as plain, gzip.open(plain) if plain.peek(2).startswith(GZIP) else plain as file:
            reader = io.BufferedReader(file)
            _check_text(path, reader.peek(8)[:8])
            yield reader
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SipoError(f"{path}: not a readable gzip file ({error}); write or download it again") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _check_text(path: Path, head: bytes) -> None:
    if kind := next((name for name, start in FOREIGN.items() if re.match(start, head)), None):
        way_out = "give it that ending" if kind == ".parquet" else "unpack it first"
        raise SipoError(f"{path}: begins as a {kind} file; {way_out}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise SipoError(f"{path}: is UTF-16, UTF-32 or no text; save it again as UTF-8")


def unreadable(path: Path, error: Exception) -> SipoError:
    reason = getattr(error, "strerror", None) or error
    return SipoError(f"{path}: cannot be read ({reason}); check its permissions and the disk")


def write_records(path: Path, records: Iterable[dict[str, Any]], objectives: Sequence[str]) -> None:
    """Write the records of rows by the file's suffix; the file appears whole or not at all.

    Only a batch of the records is held at a time; for Parquet, whose schema stands first, they are gone through twice.
    """
    _check_suffix(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".parquet":
            _write_parquet(file, records, objectives)
        else:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            file.writelines(line.encode() for line in lines)


def _check_suffix(path: Path, others: str = "") -> None:
    if path.suffix.lower() not in SUFFIXES:
        kind = f"a file ending in {path.suffix}" if path.suffix else "a name without an ending"
        raise SipoError(f"{path}: {kind} is no file of rows; use {' or '.join(SUFFIXES)}{others}")


def _what_is_there(path: Path) -> str:
    check_on_disk(shown(path))
    if path.is_dir():
        return f"is a folder; name a {' or '.join(SUFFIXES)} file in it{OTHERS}"
    if not path.parent.is_dir():
        return f"no such file, and no folder {path.parent}; check the path"
    names = sorted(other.name for other in path.parent.iterdir() if other.suffix.lower() in SUFFIXES)
    near = nearest(path.name, names)
    return f"no such file; did you mean `{near}`?" if near else "no such file; check the path"


def json_lines(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):  # in bytes, so that a wrong encoding has a line number
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            yield place, parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except SipoError as problem:
            raise SipoError(f"{path} {place}: {problem}") from None
        except UnicodeDecodeError:
            raise SipoError(f"{path} {place}: not UTF-8; save the file again in that encoding") from None
        except (ValueError, RecursionError) as error:
            way_out = "write one object a line (`jq -c .` does, and `jq -c .[]` for an array)"
            raise SipoError(f"{path} {place}: not JSON ({error}); {way_out}") from None


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the second of two equal keys would silently win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise SipoError(f"has the key `{twice}` twice; keep one")
    return found


parse_json = json.JSONDecoder(object_pairs_hook=without_duplicates).decode


def parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa  # here, because whoever reads JSON lines should not wait for it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH):
                for record in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield f"row {number}", record
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise SipoError(f"{path}: not a readable Parquet file ({error}); write or download it again") from None


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise SipoError where two columns have one name: the second would silently win."""
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise SipoError(f"{path}: has the column `{twice}` twice; keep one, or give it another name")


def _write_parquet(file: BinaryIO, records: Iterable[dict[str, Any]], objectives: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chats = splits = False
    for record in records:
        chats = chats or not isinstance(record["prompt"], str)
        splits = splits or "split" in record
    chat = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    preferred = pa.struct({name: pa.int8() for name in objectives})
    columns = {
        "prompt": chat if chats else pa.string(),
        "response_0": pa.string(),
        "response_1": pa.string(),
        "preferred": preferred,
        **({"split": pa.string()} if splits else {}),
    }
    schema = pa.schema(columns)
    with pq.ParquetWriter(file, schema) as writer:
        iterator = iter(records)
        while batch := list(islice(iterator, BATCH)):
            if chats:  # a column has one type
                batch = [{**record, "prompt": _as_chat(record["prompt"])} for record in batch]
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _as_chat(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
