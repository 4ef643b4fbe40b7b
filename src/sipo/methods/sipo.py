"""SIPO: policies that learned from responses of their own which are better in all objectives, mixed like any others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sipo.declare.stage import Inputs
from sipo.looks import Look
from sipo.methods.interface import Method
from sipo.methods.mod import mod
from sipo.methods.soups import soups
from sipo.methods.spec import MethodSpec, shares

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.graph.build import Graph


def sipo(realigned: "Sequence[Policy]") -> Method:
    """SIPO's main result: MOD over the realigned policies (SIPO, section 3).

    >>> folder = Path("runs/quickstart/realign/adapters")
    >>> realigned = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> sipo.sipo(realigned).at((0.3, 0.7)).mixture.points
    ((1.0, 0.0), (0.0, 1.0))
    """
    return mod(realigned, name="sipo")


def _mixed(_: Any, realigned: "Sequence[Policy]") -> list[Method]:
    return [sipo(realigned)]


def _averaged(_: Any, realigned: "Sequence[Policy]") -> list[Method]:
    return [soups(realigned, "sipo-soups")]


def _realigned(graph: "Graph") -> Inputs:
    return {"realigned": graph.realigned}


METHODS = (
    MethodSpec(
        "sipo",
        "MOD over the realigned policies",
        needs=_realigned,
        build=_mixed,
        look=Look("#D55E00", "D", "\N{BLACK DIAMOND}"),
        models=shares,
        improves=True,
    ),
    MethodSpec(
        "sipo-soups",
        "the realigned policies' parameters, averaged by the weights",
        needs=_realigned,
        build=_averaged,
        look=Look("#CC79A7", "P", "\N{HEAVY GREEK CROSS}"),
        improves=True,
    ),
)
