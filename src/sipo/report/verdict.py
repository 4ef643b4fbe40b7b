"""What the run found, in words that follow from the intervals and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sipo.report.parts import alike

Word = Literal["above", "below", "no difference beyond the error bars"]


@dataclass(frozen=True)
class Finding:
    """The hypervolume of one method less that of another, with its 95 % interval; positive is better."""

    method: str
    other: str
    difference: float
    low: float
    high: float

    @property
    def word(self) -> Word:
        if self.low > 0:
            return "above"
        if self.high < 0:
            return "below"
        return "no difference beyond the error bars"

    @property
    def sentence(self) -> str:
        difference, low, high = alike(self.difference, self.low, self.high)
        numbers = f"difference {difference}, 95 % interval {low} to {high}"
        if self.word == "no difference beyond the error bars":
            return f"Between {self.method} and {self.other} there is {self.word} ({numbers})."
        return f"The front of {self.method} is {self.word} that of {self.other} ({numbers})."


def findings(fronts: Mapping[str, Any]) -> list[Finding]:
    """One for each entry of `differences`, in its order."""
    found = []
    for names, each in fronts["differences"].items():
        method, other = names.split(" - ", 1)
        found.append(Finding(method, other, each["hypervolume"], *each["hypervolume_interval"]))
    return found


def verdict(fronts: Mapping[str, Any]) -> str:
    """One paragraph."""
    found = findings(fronts)
    if not found:
        return (
            f"This run compares no method with sipo: it shows {', '.join(fronts['methods'])} "
            f"on {fronts['prompts']} held-out prompts."
        )
    measure = f"Measured by hypervolume on {fronts['prompts']} held-out prompts; larger is better."
    caveat = "The intervals are over prompts; they do not say how another seed of training would have ended."
    return " ".join([measure, *(each.sentence for each in found), caveat])
