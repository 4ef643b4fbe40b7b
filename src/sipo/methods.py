"""Methods: adapters, and for a preference weight the mixture of them that answers.

Evaluation, report and generation know nothing else of a method.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sipo.bank import Adapter
from sipo.decoding import Mixture, at_mod, at_soup, base
from sipo.weights import Weight


@dataclass(frozen=True)
class Method:
    name: str
    adapters: tuple[Adapter, ...]
    mixture: Callable[[Weight], Mixture]
    steerable: bool = True
    """False where the weight changes nothing: the front is then one point."""


def base_model(policies: Sequence[Adapter]) -> Method:
    """The backbone itself: the origin of the policies' span."""
    return Method("base", tuple(policies), lambda weight: base(len(weight)), steerable=False)


def soups(policies: Sequence[Adapter]) -> Method:
    """DPO soups: the weighted sum of the policies' updates, as one model."""
    return Method("soups", tuple(policies), at_soup)


def mod(policies: Sequence[Adapter]) -> Method:
    """MOD: the policies' log-probabilities, mixed token by token."""
    return Method("mod", tuple(policies), at_mod)


def sipo(realigned: Sequence[Adapter]) -> Method:
    """SIPO's main result: MOD over the realigned policies."""
    return Method("sipo", tuple(realigned), at_mod)
