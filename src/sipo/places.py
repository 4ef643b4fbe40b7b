"""Where a run lies as people name it, `s3://bucket/run`, and where programs find it: in a working copy on this machine.

The one is made of the other, so every text that a person or a page gets names the store.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from platformdirs import user_cache_path

NAMED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+|(?<=s3:)\Z)(.*)", re.DOTALL)
"""A path keeps one of the two slashes, and none where a name ends with them."""


def cache_folder() -> Path:
    """Where what can be made again is kept: `$SIPO_CACHE`, or the user's cache folder."""
    return Path(os.environ["SIPO_CACHE"]) if "SIPO_CACHE" in os.environ else user_cache_path("sipo")


def copies() -> Path:
    """Where the working copies are: `s3/BUCKET/PARENTS%2F/NAME`, so that none lies within another."""
    return Path(os.path.realpath(cache_folder())) / "stores"


def in_a_store(place: str | os.PathLike[str]) -> bool:
    """Does the text name something in an object store?"""
    return NAMED.fullmatch(os.fspath(place)) is not None


def path_of(named: str | os.PathLike[str], below: int = 0) -> Path:
    """The path of what is named; in a store, that of its working copy. `below` names are within a run, not of its own.

    >>> path_of("runs/run")
    PosixPath('runs/run')
    """
    found = NAMED.fullmatch(os.fspath(named))
    if not found:
        return Path(named)
    bucket, *names = [name for name in found[2].split("/") if name not in ("", ".")] or [""]
    within = names[len(names) - below :]
    *above, name = names[: len(names) - below] or [""]
    return copies().joinpath(found[1].lower(), bucket, quote("/".join([*above, ""]) or "/", safe=""), name, *within)


def named(place: str | os.PathLike[str]) -> str:
    """As people write it: a path has one of the two slashes of an address.

    >>> named(Path("s3://bucket/rows.jsonl"))
    's3://bucket/rows.jsonl'
    """
    found = NAMED.fullmatch(os.fspath(place))
    return f"{found[1]}://{found[2]}" if found else os.fspath(place)


def shown(place: Path) -> str:
    """What people know the path by: in a working copy, the name in its store.

    >>> shown(Path("runs/run"))
    'runs/run'
    """
    return told(str(place))


def told(text: str) -> str:
    """The text with the names of stores in place of the paths of their working copies."""
    if "/stores/" not in text:
        return text
    found = re.compile(rf"{re.escape(str(copies()))}/([^/\s]+)/([^/\s]+)/([^/\s]*%2F)/?")
    return found.sub(lambda at: f"{at[1]}://{at[2]}/{unquote(at[3]).lstrip('/')}", text)
