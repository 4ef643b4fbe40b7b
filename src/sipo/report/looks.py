"""How methods and objectives look: the same colour and mark on every picture and table.

Colours are Okabe and Ito's, which people of all colour vision tell apart; marks and dashes say it again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

Dashes = Literal["-", "--", "-.", ":", ""]


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    """As matplotlib names them."""
    symbol: str
    """The same mark in text."""


METHODS = {
    "base": Look("#888888", "*", "\N{BLACK STAR}"),
    "soups": Look("#009E73", "s", "\N{BLACK SQUARE}"),
    "mod": Look("#0072B2", "o", "\N{BLACK CIRCLE}"),
    "sipo": Look("#D55E00", "D", "\N{BLACK DIAMOND}"),
}
OTHERS = (
    Look("#CC79A7", "^", "\N{BLACK UP-POINTING TRIANGLE}"),
    Look("#56B4E9", "v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    Look("#E69F00", "P", "\N{HEAVY GREEK CROSS}"),
)
OBJECTIVES: tuple[tuple[str, Dashes], ...] = (
    ("#CC79A7", "-"),
    ("#E69F00", "--"),
    ("#56B4E9", "-."),
    ("#009E73", ":"),
    ("#0072B2", "-"),
    ("#D55E00", "--"),
)
"""Colours and dashes of curves, in the order of the objectives; they begin anew after the last."""


def looks(methods: Iterable[str]) -> dict[str, Look]:
    spare = cycle(OTHERS)
    return {name: METHODS[name] if name in METHODS else next(spare) for name in methods}
