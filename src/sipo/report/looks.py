"""How methods and objectives look: the same colour and mark on every picture and table.

Most colours are Okabe and Ito's, which people of all colour vision tell apart. Marks and dashes say it again, and
distinguish the methods of a family, which share a colour.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle

from sipo.looks import UNSTEERED, Dashes, Look
from sipo.methods.registry import specs

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
    known = {name: spec.look for name, spec in specs().items() if spec.look} | policies
    return {name: known[name] if name in known else next(spare) for name in methods}
