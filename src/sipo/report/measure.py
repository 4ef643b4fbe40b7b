"""What a front's numbers are, in words: rewards of what the methods write, or held-out labels that agree with them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from sipo.words import listed, quantity

CAVEAT = (
    "Preference accuracy measures how a policy ranks given responses, not how good what it writes is: read its answers "
    "before you trust it."
)


@dataclass(frozen=True)
class Measure:
    name: str
    """As `fronts.json` has it."""
    heading: str
    """Of a table of points."""
    point: str
    """What a point of a front is."""
    got: str
    """What there is more of where a front is better, in the middle of a sentence."""
    more: str
    less: str
    """What a method that has more, or less, of an objective does to it."""
    same: str
    above: str
    """What a method that is above another is."""
    unit: str
    """Of a difference."""
    recommended: str
    """What the report calls the weight that it names."""
    ends: tuple[float, float] = (-inf, inf)
    """Between which it lies, and so do the ends of its intervals."""

    def clip(self, ends: Iterable[float]) -> tuple[float, ...]:
        """The ends of an interval, none of them beyond what can be."""
        low, high = self.ends
        return tuple(min(max(float(end), low), high) for end in ends)

    def within_ends(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """A comparison, with the intervals of its methods' means clipped."""

        def clipped(each: Mapping[str, Any]) -> dict[str, Any]:
            points = [
                {**point, "interval": {name: self.clip(ends) for name, ends in point["interval"].items()}}
                for point in each["points"]
            ]
            return {**each, "points": points, "utility_interval": self.clip(each["utility_interval"])}

        return {**found, "methods": {name: clipped(each) for name, each in found["methods"].items()}}

    def caveats(self, fronts: Mapping[str, Any]) -> list[str]:
        """What must be known of the numbers, in sentences."""
        if self is REWARDS:
            return []
        counts = [
            f"{name} {quantity(each['rows'], 'row')} of {quantity(each['prompts'], 'prompt')}"
            for name, each in fronts["labels"].items()
        ]
        told = [
            "Measured is preference accuracy, the share of a held-out prompt's labels that agree with how a policy "
            "ranks the two given responses, averaged over prompts; the base model ranks neither first and counts as "
            f"0.5, as chance does. {CAVEAT} "
            f"Labels: {listed(counts)}."
        ]
        if fronts["unranked"]:
            names = listed(fronts["unranked"])
            told.append(f"Left out, because labels can only score a model that is mixed or trained: {names}.")
        if "beside" in fronts:
            told.append(f"The rewards of {listed(list(fronts['beside']['prompts']))} stand in a table of their own.")
        return told


REWARDS = Measure(
    "rewards",
    "mean rewards on held-out prompts",
    "Mean true reward",
    "reward",
    "improves",
    "worsens",
    "shows no change in",
    "better",
    "In each objective's own unit; positive is better, where lower rewards are better, too.",
    "Recommended",
)
LABELS = Measure(
    "labels",
    "share of held-out labels agreed with, mean over prompts (0.5 is chance)",
    "Share of held-out labels agreed with",
    "agreement with labels",
    "agrees with more labels of",
    "agrees with fewer labels of",
    "shows no change in",
    "better at ranking held-out responses",
    "Differences in the share of held-out labels agreed with; positive is better.",
    "To look at first",
    (0.0, 1.0),
)


def measure_of(fronts: Mapping[str, Any]) -> Measure:
    """What decides in these fronts."""
    return LABELS if fronts.get("measure") == LABELS.name else REWARDS
