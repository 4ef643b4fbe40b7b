"""Best-of-n: of n answers drawn from one model, the one with the largest weighted sum of the implicit rewards.

No policy writes a word of it; they choose. With as many draws as there are policies with a share, it decodes as many
tokens as MOD at that weight does, and scores them on top: every draw under the reference and each policy. Under one
policy that is a single draw.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sipo.declare.work import Plan, Work, written
from sipo.looks import Look
from sipo.methods.interface import Aligned, Method
from sipo.methods.spec import MethodSpec, shares
from sipo.settings.section import Number, Positive, Section
from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Policy
    from sipo.declare.memory import Peaks


class BestOfN(Section):
    n: Positive | None = None
    """Draws for each answer; null is as many as policies have a share of the weight, which decodes MOD's tokens."""
    of: Literal["base", "soups"] = "base"
    """The model that they are drawn from: the backbone, as is usual, or the soup at the weight."""
    temperature: Annotated[Number, Field(ge=1e-4, le=1000)] | None = None
    """Of the draws; null is decoding.temperature, which must then be above 0."""

    def at(self, weight: Weight) -> int:
        """Draws at a weight."""
        return self.n or shares(weight)


def best_of_n(policies: "Sequence[Policy]", settings: BestOfN | None = None) -> Method:
    """Drawn from one model, chosen by the policies."""
    from sipo.decoding import BestOf, at_soup, base

    chosen = settings or BestOfN()

    def at(weight: Weight) -> Aligned:
        mixture = at_soup(weight) if chosen.of == "soups" else base(len(policies))
        best_of = BestOf(chosen.at(weight), weight, chosen.temperature)
        return Aligned(tuple(policies), mixture, best_of=best_of)

    return Method("best-of-n", at)


def _build(config: Any, policies: "Sequence[Policy]") -> list[Method]:
    return [best_of_n(policies, config.best_of_n)]


def _check(config: Any) -> None:
    settings = config.best_of_n
    greedy = config.decoding.temperature == 0 and settings.temperature is None
    if "best-of-n" in config.methods and greedy and settings.n != 1:
        raise ValueError(
            "best_of_n: decoding.temperature is 0, where all draws are the same; set best_of_n.temperature, such as 1"
        )


def _answer(plan: Plan, weight: Weight) -> Work:
    n = plan.config.best_of_n.at(weight)  # type: ignore[attr-defined]
    scored = n * (1 + plan.n) if n > 1 else 0
    choosing = Work(dropped=n - 1, scored=scored, scoring=scored * (plan.lengths.prompt + plan.longest))
    return written(plan).times(n) + choosing


def _peak(peaks: "Peaks") -> float:
    n = peaks.config.best_of_n.n or peaks.n  # type: ignore[attr-defined]
    return max(
        peaks.decoding(peaks.lengths.prompt, peaks.longest), peaks.scoring(peaks.lengths.prompt + n * peaks.longest)
    )


METHODS = (
    MethodSpec(
        "best-of-n",
        "of several draws of one model, the one with the largest weighted sum of the policies' implicit rewards",
        build=_build,
        reads=("best_of_n",),
        exported=False,
        answer=_answer,
        peak=_peak,
        look=Look("#44AA99", "8", "\N{BLACK OCTAGON}"),
        section="best_of_n",
        settings=BestOfN,
        check=_check,
    ),
)
