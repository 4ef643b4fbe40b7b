"""How a method looks on every picture and table: declared in its own file."""

from dataclasses import dataclass
from typing import Literal

Dashes = Literal["-", "--", "-.", ":", ""]


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    """As matplotlib names them."""
    symbol: str
    """The same mark in text."""
    dashes: Dashes = "-"
    """Of the line through the points; none for a method that is one point."""


UNSTEERED = "#888888"
"""The colour of what no weight steers."""
