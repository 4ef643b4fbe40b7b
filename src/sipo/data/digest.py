"""What rows are made from, in 16 hex digits: a source and the options that it is read with.

A file or folder counts by its names and every byte. Size and time would miss a label put right in place, and see a
change in every copy; reading the bytes is a small part of making the rows. A data set on the hub counts by its name.
"""

import json
import os
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path

from sipo.data._files import unreadable
from sipo.data.cleaning import Choice
from sipo.data.sources.reading import shards
from sipo.disk.content import short_digest


def digest_of(name: str, choice: Choice) -> str:
    """The same on every machine that has the same source. Raises SipoError where it cannot be read."""
    options = asdict(choice)
    del options["parquet"]  # the same rows
    if choice.tokenizer and Path(choice.tokenizer).exists():
        options["tokenizer"] = os.path.abspath(choice.tokenizer)
    source = Path(name)
    about = [options, *_content(source)] if source.exists() else [options, name]
    return short_digest(json.dumps(about))


def _content(source: Path) -> list[str]:
    """Names tell splits and objectives: they count too, with those of the folders."""
    found = [source.resolve().name]
    for file in shards(source):
        try:
            with file.open("rb") as stream:
                digest = file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(file, error) from None
        found += [file.relative_to(source).as_posix(), file.resolve().parent.name, digest]
    return found
