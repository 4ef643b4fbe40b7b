"""Counts and lists as people read them."""

from collections.abc import Sequence


def quantity(count: int, one: str, several: str | None = None) -> str:
    """`1 row`, `2 rows`; the plural is the singular and an s where it is not given."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
