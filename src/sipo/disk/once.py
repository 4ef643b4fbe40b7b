"""What tables repeat over and over, token ids and names, is held in memory once, whatever it is read from."""

import json
import sys
from collections.abc import Iterable
from typing import Any

MANY = 1 << 19
"""Ids below this are held once; no vocabulary is as large."""
LONG = 200
"""A text of more characters is hardly a name."""


class _Numbers(dict[int | str, int]):
    """Whole numbers by themselves and by how JSON writes them."""

    def __missing__(self, key: int | str) -> int:
        number = self[int(key)] if isinstance(key, str) else key
        if -MANY < number < MANY:
            self[key] = number
        return number


_NUMBERS = _Numbers()
parse = json.JSONDecoder(parse_int=_NUMBERS.__getitem__).decode
"""json.loads, with whole numbers held once."""


def ids(tokens: Iterable[int]) -> tuple[int, ...]:
    """The token ids, 8 bytes each in place of 36."""
    return tuple(map(_NUMBERS.__getitem__, tokens))


def named(value: Any) -> Any:
    """What JSON holds, with names in it, as mappings have them and lists of words, held once."""
    match value:
        case str():
            return sys.intern(value) if len(value) <= LONG else value
        case dict():
            return {named(key): named(each) for key, each in value.items()}
        case [str() | dict() | list(), *_]:
            return [named(each) for each in value]
    return value


def alike(value: Any, before: Any) -> Any:
    """The value, or where it is the same to the last bit, the one `before` it."""
    return before if value == before and repr(value) == repr(before) else value
