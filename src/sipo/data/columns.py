"""A record that knows which of its columns have been read, so that those which nobody reads can be named."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sipo.data.chats import unread_keys
from sipo.data.context import is_empty
from sipo.words import listed, quantity

if TYPE_CHECKING:  # rows are read with this
    from sipo.data.rows import Row

DIFFERS = -1
"""In place of a digest: the column differs between what a row was made of."""


class Columns(dict[str, Any]):
    def __init__(self, value: dict[str, Any]) -> None:
        super().__init__(value)
        self._read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self._read.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        self._read.add(column)
        return super().get(column, default)

    @property
    def unread(self) -> dict[str, int]:
        """The columns, and the keys of chats in the others, that say something and have not been read, with a digest of
        what they say.
        """
        items: dict[str, object] = {}
        for name, value in self.items():
            inside = unread_keys(value) if name in self._read else {"": value}
            items |= {f"{name}{key}": said for key, said in inside.items() if not is_empty(said)}
        return {name: crc32(repr(value).encode("utf-8", "surrogatepass")) for name, value in items.items()}


def unread_by_prompt(unread: dict[str, int], of_one_prompt: Iterable[Mapping[str, int]]) -> None:
    """Count into `unread`, for every column that the rows of one prompt leave unread, whether they differ in it."""
    found = list(of_one_prompt)
    for name in dict.fromkeys(name for each in found for name in each):
        said = {each.get(name) for each in found}
        unread[name] = unread.get(name, 0) + (DIFFERS in said or len(said) > 1)


def unread_of(rows: "Iterable[Row]") -> dict[str, int]:
    """The columns that nobody read of these rows, and for how many prompts the rows differ in them."""
    by_prompt: dict[str, list[Mapping[str, int]]] = {}
    for row in rows:
        if row.unread:
            by_prompt.setdefault(row.key, []).append(row.unread)
    unread: dict[str, int] = {}
    for mine in by_prompt.values():
        unread_by_prompt(unread, mine)
    return unread


def about_unread(unread: Mapping[str, int]) -> list[str]:
    """Sentences for people, none where every column has been read."""
    if not unread:
        return []
    lines = [f"not read: {', '.join(f'`{name}`' for name in unread)}"]
    if differing := {name: count for name, count in unread.items() if count}:
        counts = listed([f"`{name}` in {quantity(count, 'prompt')}" for name, count in differing.items()])
        lines.append(
            f"rows of one prompt differ there: {counts}; where a column belongs to the prompt, "
            "--map system=COLUMN (or history, context, input) puts it there"
        )
    return lines
