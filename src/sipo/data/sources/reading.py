"""Records from local files and folders of shards: JSON lines, JSON arrays, CSV (each also gzipped, as its bytes and not
its name tell) and Parquet.

The header of a CSV file tells what divides its fields: commas, semicolons (a spreadsheet in much of Europe) or tabs.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from sipo.data._files import check_names, json_lines, opened, parquet_records, without_duplicates
from sipo.data.chats import kind_of
from sipo.data.labels import SPLIT_NAMES, Split
from sipo.data.sources.interface import Record
from sipo.errors import SipoError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".zst", ".bz2", ".xz", ".zip")
"""Endings after these that only other programs unpack."""
DELIMITERS = (",", ";", "\t")
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
SHARD = re.compile(r"(?:^|[-_.])(?P<index>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]{16})?$|^\d+$")
SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?=[-_.]|$)", re.IGNORECASE)
CHUNK = 1 << 16


def read_path(path: Path, name: str | None = None) -> Iterator[Record]:
    """The records of a file, or of all files in a folder and its folders, in the order of their names.

    The split is told by the name: `train.jsonl`, `helpful-test-00000-of-00002.parquet`, `validation/0.csv`. What is
    left of it is the part, or the folder's name where nothing is. `name` is the part where there is but one.
    """
    files = shards(path)
    places = [_split_and_part(file, path) for file in files]
    alone = len({part for _, part in places}) == 1
    for file, (split, part) in zip(files, places, strict=True):
        for place, value in read_file(file):
            if not isinstance(value, dict):
                raise SipoError(f"{file} {place}: {kind_of(value)}, not an object; each record is one object")
            yield Record(f"{file} {place}", value, name if alone and name else part, split)


def shards(path: Path) -> list[Path]:
    """The file, or the folder's, in the order of their names. Raises SipoError for a folder without any."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if _is_shard(file, path))
    if packed := next((file for file in files if file.suffix.lower() in PACKED), None):
        raise SipoError(f"{packed}: {packed.suffix} files are not read; unpack it first, or move it elsewhere")
    if not files:
        raise SipoError(f"{path}: no {', '.join(SUFFIXES)} file in it; name the file or the folder that has them")
    if path.is_dir():
        _check_complete(files)
    return files


def _check_complete(files: Sequence[Path]) -> None:
    """Raise SipoError where shards that say how many there are (`train-00000-of-00002`) are not all there."""
    found: dict[tuple[Path, str, str], set[int]] = defaultdict(set)
    for file in files:
        name = file.name.partition(".")[0]
        if (shard := SHARD.search(name)) and shard["count"]:
            found[file.parent, name[: shard.start()], shard["count"]].add(int(shard["index"]))
    for (folder, name, count), indices in found.items():
        if len(indices) < int(count):
            shards_of = f"shards of {name}" if name else "shards"
            raise SipoError(f"{folder}: has {len(indices)} of {int(count)} {shards_of}; download it again")


def split_named(text: str) -> Split | None:
    found = SPLIT.search(text)
    return SPLIT_NAMES[found[1].casefold()] if found else None


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record of a file with its place. Raises SipoError for a file of another kind, or a corrupt one."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise SipoError(f"{path}: is no data file; use {', '.join(SUFFIXES)}, or .gz after any but the last")
    if suffix == ".parquet":
        yield from parquet_records(path)
        return
    with opened(path) as file:
        if suffix in (".csv", ".tsv"):
            with _as_text(file) as stream:
                yield from _csv_records(path, stream)
        elif suffix == ".json" and _first(file) == b"[":
            with _as_text(file) as stream:
                yield from _array(path, stream)
        else:
            yield from json_lines(path, file)


@contextmanager
def _as_text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    stream = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        yield stream
    finally:
        stream.detach()  # whoever opened the file closes it


def _csv_records(path: Path, file: io.TextIOWrapper) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(1 << 30)
    place, above, way_out = "line 1", 0, "quote fields that hold quotes, line ends or what divides them"
    try:
        header = file.readline()
        if header.casefold().startswith("sep="):  # for the spreadsheet alone
            header, above = file.readline(), 1
        delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each), ())))
        rows = csv.DictReader(chain([header], file), delimiter=delimiter, strict=True)
        check_names(path, rows.fieldnames or ())
        for row in rows:
            place = f"line {rows.line_num + above}"
            if None in row or None in row.values():
                raise SipoError(f"{path} {place}: has not as many fields as the header; {way_out}")
            yield place, row
    except UnicodeDecodeError:
        raise SipoError(f"{path} after {place}: not UTF-8; save the file again in that encoding") from None
    except csv.Error as error:
        raise SipoError(f"{path} after {place}: not CSV ({error}); {way_out}") from None


def _array(path: Path, stream: io.TextIOWrapper) -> Iterator[tuple[str, Any]]:
    """The members of a JSON array, one at a time."""
    decoder, buffer, number, chunk = json.JSONDecoder(object_pairs_hook=without_duplicates), "", 0, CHUNK
    expected = "["
    while True:
        buffer = buffer.lstrip()
        if buffer[:1] == "]" and number:
            return
        if buffer[:1] == expected:
            rest = buffer[1:].lstrip()
            if rest[:1] == "]" and not number:
                return
            try:
                value, end = decoder.raw_decode(rest)
                if rest[end:].lstrip():  # else a number could go on in the next piece
                    number, buffer, expected, chunk = number + 1, rest[end:], ",", CHUNK
                    yield f"item {number}", value
                    continue
                problem = "ends before the array does"
            except SipoError as found:
                raise SipoError(f"{path} item {number + 1}: {found}") from None
            except (ValueError, RecursionError) as error:
                problem = str(error)
        else:
            problem = f"expected `{expected}`"
        try:
            piece = stream.read(chunk)
        except UnicodeDecodeError:
            raise SipoError(f"{path} after item {number}: not UTF-8; save the file again in that encoding") from None
        if not piece:
            raise SipoError(f"{path} item {number + 1}: not JSON ({problem}); write or download it again")
        buffer += piece
        chunk *= 2  # so that a long item is tried a few times only


def _first(file: BinaryIO) -> bytes:
    head: bytes = file.peek(CHUNK)[:CHUNK]  # type: ignore[attr-defined]
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _suffix(path: Path) -> str:
    packed = path.suffix.lower() in (".gz", *PACKED)
    return (path.with_suffix("") if packed else path).suffix.lower()


def _is_shard(file: Path, folder: Path) -> bool:
    hidden = any(name.startswith(".") for name in file.relative_to(folder).parts)
    return file.is_file() and not hidden and file.name not in DESCRIPTIONS and _suffix(file) in SUFFIXES


def _split_and_part(file: Path, root: Path) -> tuple[Split | None, str]:
    names = [file.name.partition(".")[0], *reversed(file.relative_to(root).parts[:-1])] if file != root else []
    names = names or [file.name.partition(".")[0]]
    names[0] = SHARD.sub("", names[0])
    split = next((found for name in names if (found := split_named(name))), None)
    parts = (SPLIT.sub("", name, count=1).strip("-_.") for name in [*names, file.resolve().parent.name])
    return split, next(filter(None, parts), names[0])
