"""Rows that a run makes for itself, of what `data.source` names: found again as long as the source is the same."""

import re
from collections.abc import Callable
from pathlib import Path

from sipo.data.cleaning import Choice
from sipo.data.datacard import digest_on
from sipo.data.digest import digest_of
from sipo.data.prepare import prepare
from sipo.data.sources.finding import on_hub
from sipo.disk.locking import alone
from sipo.errors import SipoError
from sipo.places import cache_folder

ROWS = "rows.jsonl"
FLAGS = re.compile(r"(?<!\S)--(format|map|objectives|max-tokens|tokenizer)\b")


def place_for(name: str, choice: Choice) -> Path:
    """Where rows live that nobody has named a place for: in the cache, under what they are made from."""
    label = re.sub(r"[^\w.-]+", "-", Path(name).name)
    return _kept() / f"{label}-{digest_of(name, choice)}" / ROWS


def _kept() -> Path:
    return cache_folder().absolute() / "rows"


def make_rows(path: Path, name: str, choice: Choice, say: Callable[[str], None]) -> None:
    """Have rows at `path`: leave those that are there, or make its folder as `sipo data prepare` does.

    Raises SipoError where the source is at fault, or where the rows there were made from another one.
    """
    if not path.exists():
        with alone(path.parent, wait=True):
            if not path.exists():  # else: another process was first
                say(f"rows       are made of {name}, in {path.parent}")
                try:
                    prepare(name, path.parent, choice)
                except SipoError as problem:
                    raise SipoError(f"data.source: {_in_keys(str(problem))}") from None
                return
    if _kept() not in path.parents:  # those there are named by their digest
        _check_origin(path, name, choice)


def _check_origin(path: Path, name: str, choice: Choice) -> None:
    """Rows without a card, or of a source that is gone, are taken as they are."""
    made_from = digest_on(path.with_name("README.md"))
    known = Path(name).exists() or on_hub(name)
    if made_from and known and made_from != digest_of(name, choice):
        raise SipoError(
            f"data.source: {name} or its options are not those that {path} was made from; "
            f"remove {path.parent} to make it anew, name another data.path, or leave data.source out to keep it"
        )


def _in_keys(text: str) -> str:
    """The command's options, as the keys that they are here."""
    return FLAGS.sub(lambda flag: flag[1].replace("-", "_"), text)
