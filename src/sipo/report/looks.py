"""How methods and objectives look: the same colour and mark on every picture and table.

Most colours are Okabe and Ito's, which people of all colour vision tell apart. Marks and dashes say it again, and
distinguish the methods of a family, which share a colour.
"""

from collections.abc import Iterable, Sequence
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
    dashes: Dashes = "-"
    """Of the line through the points; none for a method that is one point."""


UNSTEERED = "#888888"
METHODS = {
    "base": Look(UNSTEERED, "*", "\N{BLACK STAR}", ""),
    "soups": Look("#009E73", "s", "\N{BLACK SQUARE}"),
    "factor-soups": Look("#009E73", "p", "\N{BLACK PENTAGON}", ":"),
    "mod": Look("#0072B2", "o", "\N{BLACK CIRCLE}"),
    "mod-forward-kl": Look("#0072B2", "<", "\N{BLACK LEFT-POINTING TRIANGLE}", "--"),
    "mod-alpha": Look("#0072B2", ">", "\N{BLACK RIGHT-POINTING TRIANGLE}", "-."),
    "mod-jensen-shannon": Look("#0072B2", "h", "\N{BLACK HEXAGON}", ":"),
    "lw": Look("#56B4E9", "v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    "modpo": Look("#E69F00", "^", "\N{BLACK UP-POINTING TRIANGLE}"),
    "raco": Look("#999933", "H", "\N{HORIZONTAL BLACK HEXAGON}"),
    "consensus": Look("#56B4E9", "X", "\N{HEAVY MULTIPLICATION X}", "--"),
    "sipo": Look("#D55E00", "D", "\N{BLACK DIAMOND}"),
    "sipo-soups": Look("#CC79A7", "P", "\N{HEAVY GREEK CROSS}"),
}
POLICIES = (
    Look(UNSTEERED, "X", "\N{HEAVY MULTIPLICATION X}", ""),
    Look(UNSTEERED, "d", "\N{BLACK LOZENGE}", ""),
    Look(UNSTEERED, "H", "\N{HORIZONTAL BLACK HEXAGON}", ""),
    Look(UNSTEERED, "P", "\N{HEAVY GREEK CROSS}", ""),
)
"""Single policies, in the order of the objectives."""
OTHERS = (
    Look("#009E73", "s", "\N{BLACK SQUARE}"),
    Look("#D55E00", "D", "\N{BLACK DIAMOND}"),
    Look("#0072B2", "o", "\N{BLACK CIRCLE}"),
    Look("#E69F00", "^", "\N{BLACK UP-POINTING TRIANGLE}"),
    Look("#CC79A7", "P", "\N{HEAVY GREEK CROSS}"),
    Look("#56B4E9", "v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    Look("#999933", "X", "\N{HEAVY MULTIPLICATION X}"),
)
"""Names that sipo does not give, such as a study's arms, in turn."""
OBJECTIVES: tuple[tuple[str, Dashes], ...] = (
    ("#CC79A7", "-"),
    ("#E69F00", "--"),
    ("#56B4E9", "-."),
    ("#009E73", ":"),
    ("#0072B2", "-"),
    ("#D55E00", "--"),
)
"""Colours and dashes of curves, in the order of the objectives; they begin anew after the last."""


def looks(methods: Iterable[str], objectives: Sequence[str] = ()) -> dict[str, Look]:
    """The look of each method: the same whatever else is shown, but for names that sipo itself does not give."""
    spare = cycle(OTHERS)
    policies = dict(zip((f"policy:{name}" for name in objectives), cycle(POLICIES), strict=False))
    known = METHODS | policies
    return {name: known[name] if name in known else next(spare) for name in methods}
