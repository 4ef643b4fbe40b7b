"""Scales of the page's charts: from an objective's unit to a place in the picture, with ticks that people read."""

from collections.abc import Sequence
from dataclasses import dataclass

from sipo.report.parts import alike

MARGIN = 0.06
"""Of the range, beyond the outermost values."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A straight scale over [low, high], drawn from `start` to `end`; worse values lie at the start."""

    name: str
    maximise: bool
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * (part if self.maximise else 1 - part), 2)

    def ticks(self, most: int = 5) -> list[Tick]:
        """At round numbers within the scale."""
        from matplotlib.ticker import MaxNLocator  # costs a second where no page is drawn

        found = [float(value) for value in MaxNLocator(most).tick_values(self.low, self.high)]
        inside = [value for value in found if self.low <= value <= self.high]
        return [Tick(self.place(value), label) for value, label in zip(inside, _labels(inside), strict=True)]

    @property
    def better(self) -> str:
        return "higher is better" if self.maximise else "lower is better"


def axis(name: str, maximise: bool, values: Sequence[float], start: float, end: float) -> Axis:
    """Over these values and a little more."""
    low, high = min(values), max(values)
    room = MARGIN * (high - low) or 0.5 * abs(low) or 0.5
    return Axis(name, maximise, low - room, high + room, start, end)


def _labels(values: Sequence[float]) -> list[str]:
    """As few decimals as tell them apart."""
    texts = alike(*values) if values else []
    while texts and all("." in each and each[-1] == "0" for each in texts):
        texts = [each[:-1].removesuffix(".") for each in texts]
    return texts
