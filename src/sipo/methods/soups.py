"""DPO soups: one model whose parameters are the weighted sum of the policies' (SIPO, section 2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sipo.looks import Look
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Adapter, Policy


def soups(policies: "Sequence[Policy]", name: str = "soups") -> Method:
    """The exact soup, sum_i w_i B_i A_i in every layer: a point in the policies' span (SIPO, section 2).

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> sipo.soups(policies).at((0.3, 0.7)).mixture.points
    ((0.3, 0.7),)
    """
    from sipo.decoding import at_soup

    return Method(name, lambda weight: Aligned(tuple(policies), at_soup(weight)))


def factor_soups(policies: "Sequence[Adapter]") -> Method:
    """The factors averaged apart, (sum_i w_i B_i)(sum_i w_i A_i), as the authors' code does: cheaper, another model.

    Its `at` raises SipoError where the policies differ in rank or scaling.

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> [adapter.rank for adapter in sipo.factor_soups(policies).at((0.3, 0.7)).adapters]
    [2]
    """
    from sipo.bank import factor_soup
    from sipo.decoding import at_soup

    def at(weight: Weight) -> Aligned:
        return Aligned((factor_soup(policies, weight),), at_soup((1.0,)))

    return Method("factor-soups", at)


def _exact(_: Any, policies: "Sequence[Policy]") -> list[Method]:
    return [soups(policies)]


def _of_factors(_: Any, policies: "Sequence[Adapter]") -> list[Method]:
    return [factor_soups(policies)]


def _check(config: Any) -> None:
    if config.policies == "full" and "factor-soups" in config.methods:
        raise ValueError(
            "methods: factor-soups averages factors, and whole models (policies: full) have none; take soups"
        )


METHODS = (
    MethodSpec(
        "soups",
        "the policies' parameters, averaged by the weights",
        build=_exact,
        look=Look("#009E73", "s", "\N{BLACK SQUARE}"),
    ),
    MethodSpec(
        "factor-soups",
        "the policies' LoRA factors A and B, each averaged by the weights",
        build=_of_factors,
        look=Look("#009E73", "p", "\N{BLACK PENTAGON}", ":"),
        check=_check,
    ),
)
