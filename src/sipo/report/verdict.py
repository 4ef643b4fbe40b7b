"""What the run found, in words that follow from the intervals and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sipo.report.parts import alike

SPELLED_OUT = 4
"""So many comparisons are told one by one, with their numbers; more are grouped."""

Word = Literal["above", "below", "no difference beyond the error bars"]


@dataclass(frozen=True)
class Finding:
    """What one method has more of than another, with 95 % intervals; positive is better."""

    method: str
    other: str
    difference: float
    """Of hypervolume, which the words are about."""
    low: float
    high: float
    utility: float
    utility_low: float
    utility_high: float

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
        numbers = (each["hypervolume"], *each["hypervolume_interval"], each["utility"], *each["utility_interval"])
        found.append(Finding(method, other, *numbers))
    return found


def verdict(fronts: Mapping[str, Any]) -> str:
    """One paragraph: sipo against each other method or, without it, all pairs that differ beyond the error bars."""
    found = findings(fronts)
    if not found:
        return f"This run has one method, {', '.join(fronts['methods'])}, on {fronts['prompts']} held-out prompts."
    measure = f"Measured by hypervolume on {fronts['prompts']} held-out prompts; larger is better."
    caveat = "The intervals are over prompts; they do not say how another seed of training would have ended."
    against_sipo = [each for each in found if each.method == "sipo"]
    if not against_sipo:
        said = _apart(found)
    else:
        said = [each.sentence for each in against_sipo] if len(against_sipo) <= SPELLED_OUT else _grouped(against_sipo)
    return " ".join([measure, *said, caveat])


def _grouped(found: list[Finding]) -> list[str]:
    """Rivals by outcome; their numbers are in the report's table."""
    by_word: dict[Word, list[str]] = {}
    for each in found:
        by_word.setdefault(each.word, []).append(each.other)
    said = [f"The front of sipo is {word} {_that_of(by_word[word])}." for word in ("above", "below") if word in by_word]
    even = by_word.get("no difference beyond the error bars")
    subject = "it" if said else "the front of sipo"
    return [*said, *([f"From {_that_of(even)} {subject} does not differ beyond the error bars."] if even else [])]


def _apart(found: list[Finding]) -> list[str]:
    """How many of the pairs differ, and which; their numbers are in the report's table of pairs."""
    if len(found) == 1:
        return [found[0].sentence]
    beats: dict[str, list[str]] = {}
    for each in found:
        if each.word == "above":
            beats.setdefault(each.method, []).append(each.other)
        elif each.word == "below":
            beats.setdefault(each.other, []).append(each.method)
    apart = sum(map(len, beats.values()))
    count = f"{apart} of the {len(found)} pairs" if apart else f"None of the {len(found)} pairs"
    said = [f"{count} of methods {'differs' if apart < 2 else 'differ'} beyond the error bars."]
    said += [f"The front of {better} is above {_that_of(worse)}." for better, worse in beats.items()]
    by_chance = round(0.05 * len(found))
    if apart and by_chance:
        said.append(f"Were all methods equal, about {by_chance} of so many pairs would seem to differ by chance.")
    return said


def _that_of(methods: list[str]) -> str:
    return f"that of {methods[0]}" if len(methods) == 1 else f"those of {', '.join(methods[:-1])} and {methods[-1]}"
