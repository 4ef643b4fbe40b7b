"""MOD: the policies' distributions, mixed token by token while decoding (Shi et al. 2024)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sipo.looks import Look
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec, shares
from sipo.settings.section import Number, Section
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.decoding import Divergence


class Mod(Section):
    alpha: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """Of the alpha-divergence that `mod-alpha` decodes by; towards 0 it is reverse KL, at 1 forward KL."""


def mod(policies: "Sequence[Policy]", divergence: "Divergence | None" = None, name: str | None = None) -> Method:
    """MOD over the policies for one f-divergence (Shi et al. 2024; SIPO, Eq. 3); reverse KL, the usual one, averages
    their log-probabilities by the weights.

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> sipo.mod(policies).at((0.3, 0.7)).mixture.weights
    (0.3, 0.7)
    """
    from sipo.decoding import REVERSE_KL, at_mod

    by = divergence or REVERSE_KL
    default = "mod" if by == REVERSE_KL else f"mod-{by.kind}"
    return Method(name or default, lambda weight: Aligned(tuple(policies), at_mod(weight, by)))


def _reverse_kl(_: Any, policies: "Sequence[Policy]") -> list[Method]:
    return [mod(policies)]


def _forward_kl(_: Any, policies: "Sequence[Policy]") -> list[Method]:
    from sipo.decoding import FORWARD_KL

    return [mod(policies, FORWARD_KL)]


def _alpha(config: Any, policies: "Sequence[Policy]") -> list[Method]:
    from sipo.decoding import Divergence

    return [mod(policies, Divergence("alpha", config.mod.alpha))]


def _jensen_shannon(_: Any, policies: "Sequence[Policy]") -> list[Method]:
    from sipo.decoding import JENSEN_SHANNON

    return [mod(policies, JENSEN_SHANNON)]


def _with_reference(weight: Weight) -> int:
    """Where Jensen-Shannon mixes anything, it asks the reference besides."""
    asked = shares(weight)
    return asked + (asked > 1)


def _declare(name: str, says: str, build: Any, look: Look, **more: Any) -> MethodSpec:
    return MethodSpec(name, says, build=build, look=look, **{"models": shares, **more})


METHODS = (
    _declare(
        "mod",
        "the policies' log-probabilities, averaged by the weights for each token",
        _reverse_kl,
        Look("#0072B2", "o", "\N{BLACK CIRCLE}"),
    ),
    _declare(
        "mod-forward-kl",
        "the same by forward KL: the weighted harmonic mean of the probabilities",
        _forward_kl,
        Look("#0072B2", "<", "\N{BLACK LEFT-POINTING TRIANGLE}", "--"),
    ),
    _declare(
        "mod-alpha",
        "the same by an alpha-divergence, between mod and mod-forward-kl",
        _alpha,
        Look("#0072B2", ">", "\N{BLACK RIGHT-POINTING TRIANGLE}", "-."),
        reads=("mod.alpha",),
        section="mod",
        settings=Mod,
    ),
    _declare(
        "mod-jensen-shannon",
        "the same by the Jensen-Shannon divergence from the backbone",
        _jensen_shannon,
        Look("#0072B2", "h", "\N{BLACK HEXAGON}", ":"),
        models=_with_reference,
    ),
)
