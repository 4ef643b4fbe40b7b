"""DPO for one objective (SIPO, Eq. 2): each objective's policy alone, as a method of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sipo.declare.work import Plan, Work, written
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec
from sipo.weights import Weight, corners

if TYPE_CHECKING:
    from sipo.bank import Policy


def single_policies(policies: "Mapping[str, Policy]") -> list[Method]:
    """`policy:NAME` by objective: the corners of the simplex.

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = {name: sipo.load_adapter(folder / name) for name in ("detail", "plain")}
    >>> [method.name for method in sipo.single_policies(policies)]
    ['policy:detail', 'policy:plain']
    """
    from sipo.decoding import at_soup

    def alone(objective: str, corner: tuple[float, ...]) -> Method:
        only = Aligned(tuple(policies.values()), at_soup(corner))
        return Method(f"policy:{objective}", lambda _: only, steerable=False)

    return [alone(name, corner) for name, corner in zip(policies, corners(len(policies)), strict=True)]


def _build(config: Any, policies: "Sequence[Policy]") -> list[Method]:
    return single_policies(dict(zip(config.names, policies, strict=True)))


def _answer(plan: Plan, _: Weight) -> Work:
    """Each policy writes one."""
    return written(plan).times(plan.n)


METHODS = (
    MethodSpec(
        "policies",
        "each objective's policy alone, as policy:NAME",
        build=_build,
        answer=_answer,
        steered=False,
    ),
)
