"""Counts and lists as people read them."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches


def quantity(count: int, one: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`; the plural is the singular and an s where it is not given."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def nearest(written: str, known: Iterable[str]) -> str:
    """What was meant, where one of the known names is misspelled. Empty where none is near or several are as near, and
    where one of several with other numbers was asked for: those are other things.

    >>> nearest("algin", ["align", "lora"]), nearest("2bit", ["4bit", "8bit"])
    ('align', '')
    """
    known = list(dict.fromkeys(known))
    first, second = [*get_close_matches(written, known, n=2), "", ""][:2]
    alike = [name for name in known if _numberless(name) == _numberless(written)]
    likeness = [SequenceMatcher(None, each, written).ratio() for each in (first, second)]
    return "" if likeness[0] == likeness[1] or (first in alike and len(alike) > 1) else first


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "", name)
