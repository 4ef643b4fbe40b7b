"""What the run found, in words that follow from its numbers and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sipo.pareto.verdicts import Word
from sipo.report.parts import Estimated, alike, number
from sipo.words import listed, quantity

SPELLED_OUT = 4
"""So many comparisons are told one by one, with their numbers; more are grouped."""


@dataclass(frozen=True)
class Finding:
    """What one method has more of than another, with 95 % intervals; positive is better."""

    method: str
    other: str
    difference: float
    """Of mean utility, which the words are about."""
    low: float
    high: float
    p: float
    """After Holm's correction for all pairs of the run."""
    detectable: float | None
    """The difference that the test finds among all pairs in four of five such runs."""
    word: Word
    because: str
    """What forbids to say more."""

    @property
    def sentence(self) -> str:
        difference, low, high, seen = alike(self.difference, self.low, self.high, self.detectable or 0.0)
        numbers = f"difference {difference}, 95 % interval {low} to {high}"
        if self.word != "not shown":
            return f"{self.method} is {self.word} {self.other} ({numbers}, p {_p(self.p)})."
        size = f"; the test finds one of {seen} in four of five such runs" if self.detectable else ""
        return f"No difference of {self.method} and {self.other} is shown: {self.because} ({numbers}{size})."


def findings(fronts: Mapping[str, Any]) -> list[Finding]:
    """One for each entry of `differences`, in its order."""
    found = []
    for names, each in fronts["differences"].items():
        method, other = names.split(" - ", 1)
        low, high = each["utility_interval"]
        found.append(
            Finding(
                method,
                other,
                each["utility"],
                low,
                high,
                each["p"],
                each["detectable"],
                each["is"],
                each["because"],
            )
        )
    return found


def verdict(fronts: Mapping[str, Any]) -> str:
    """One paragraph: sipo against each other method or, without it, all pairs that differ; and what weights move."""
    found = findings(fronts)
    if not found:
        return f"This run has one method, {', '.join(fronts['methods'])}, on {_prompts(fronts)}."
    family = f", by paired t tests with Holm's correction for {len(found)} pairs" if len(found) > 1 else ""
    measure = f"Measured by mean utility on {_prompts(fronts)}{family}; larger is better."
    caveat = "The intervals are over prompts; they do not say how another seed of training would have ended."
    against_sipo = [each for each in found if each.method == "sipo"]
    if not against_sipo:
        said = _apart(found)
    else:
        said = [each.sentence for each in against_sipo] if len(against_sipo) <= SPELLED_OUT else _grouped(against_sipo)
    return " ".join([measure, *said, *_kept(fronts), caveat])


def lift(fronts: Mapping[str, Any]) -> str:
    """How much noise adds to the hypervolumes, in words."""
    lifted = {name: each["hypervolume"] - each["hypervolume_corrected"] for name, each in fronts["methods"].items()}
    most = max(lifted, key=lambda name: lifted[name])
    error = fronts["methods"][most].get("hypervolume_error", 0.0)
    taken, of_it, _ = Estimated(max(lifted[most], 0.0), fronts["methods"][most]["hypervolume"], 0.0, error).texts()
    single = [name for name, each in fronts["methods"].items() if len(each["points"]) == 1]
    said = (
        "Noise in the points of a front lifts its hypervolume, the more the closer they are to each other, and more "
        "prompts do not cure it. The bootstrap's estimate of that is taken off, and counts in the interval as an error "
        f"of its size; at most {taken} of {of_it}, of {most}."
    )
    if error:
        standard = number(float(f"{error:.1g}"))
        said += (
            f" Of {len(fronts['objectives'])} objectives a hypervolume is itself an estimate, by sampling; its "
            f"standard error, {standard} for {most}, counts in the interval, and no digits beyond it are shown."
        )
    if single and len(single) < len(lifted):
        said += f" It is not the same for {' and '.join(single)}, of one point: compare by utility."
    return said


def narrowed(fronts: Mapping[str, Any]) -> str:
    """A warning of fronts that shrank, in one sentence; nothing where none did, beyond the noise."""
    found = {name: each["narrow"] for name, each in fronts["methods"].items() if each["narrow"]}
    if not found:
        return ""
    parts = []
    for method, objectives in found.items():
        shares = [f"{name} {fronts['methods'][method]['kept'][name]:.0%}" for name in objectives]
        parts.append(f"of {method} ({listed(shares)})")
    return (
        f"warning: the weights steer less than half as far as those of {fronts['start']}: {', '.join(parts)}; "
        "hypervolume does not tell that a front has shrunk"
    )


def _kept(fronts: Mapping[str, Any]) -> list[str]:
    """How far sipo's weights still steer."""
    start = fronts["start"]
    if "sipo" not in fronts["methods"] or start is None or len(fronts["methods"]["sipo"]["points"]) == 1:
        return []
    mine, theirs = fronts["methods"]["sipo"], fronts["methods"][start]
    still = fronts["differences"].get(f"sipo - {start}", {}).get("still", ())
    noise = {name: ", both no more than noise" if name in still else "" for name in mine["ranges"]}
    parts = [
        f"{name} by {number(each)} ({start}'s by {number(theirs['ranges'][name])}{noise[name]})"
        for name, each in mine["ranges"].items()
    ]
    said = [f"From no weight to all of it, it moves {listed(parts)}."]
    if mine["narrow"]:
        said.append(f"So it steers {listed(mine['narrow'])} less than half as far: its front has shrunk.")
    return said


def _grouped(found: list[Finding]) -> list[str]:
    """Rivals by outcome; their numbers are in the report's table."""
    by_word: dict[Word, list[str]] = {}
    for each in found:
        by_word.setdefault(each.word, []).append(each.other)
    said = [f"sipo is {word} {listed(by_word[word])}." for word in ("above", "below") if word in by_word]
    even = [each for each in found if each.word == "not shown"]
    if even:
        reasons = dict.fromkeys(each.because for each in even)
        seen = [each.detectable for each in even if each.detectable]
        size = f"; the tests find one of {number(max(seen))} in four of five such runs" if seen else ""
        said.append(f"No difference from {listed(by_word['not shown'])} is shown: {'; '.join(reasons)}{size}.")
    return said


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
    seen = [each.detectable for each in found if each.word == "not shown" and each.detectable]
    count = f"{apart} of the {len(found)} pairs" if apart else f"None of the {len(found)} pairs"
    said = [f"{count} of methods {'differs' if apart < 2 else 'differ'} as far as is shown."]
    said += [f"{better} is above {listed(worse)}." for better, worse in beats.items()]
    if seen:
        said.append(f"Between the others the tests find one of {number(max(seen))} in four of five such runs.")
    return said


def _prompts(fronts: Mapping[str, Any]) -> str:
    return quantity(fronts["prompts"], "held-out prompt")


def _p(value: float) -> str:
    return "below .001" if value < 0.001 else f"{value:.2g}"
