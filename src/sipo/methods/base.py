"""The backbone itself: the origin of the policies' span."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sipo.looks import UNSTEERED, Look
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec

if TYPE_CHECKING:
    from sipo.bank import Policy


def base_model(policies: "Sequence[Policy]") -> Method:
    """The backbone, mounted with the policies, so that its answers share their batches' setting.

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> sipo.base_model(policies).at((0.3, 0.7)).mixture.points  # at any weight
    ((0.0, 0.0),)
    """
    from sipo.decoding import base

    origin = Aligned(tuple(policies), base(len(policies)))
    return Method("base", lambda _: origin, steerable=False)


def _build(_: Any, policies: "Sequence[Policy]") -> list[Method]:
    return [base_model(policies)]


METHODS = (
    MethodSpec(
        "base",
        "the backbone, unaligned",
        build=_build,
        look=Look(UNSTEERED, "*", "\N{BLACK STAR}", ""),
        steered=False,
    ),
)
