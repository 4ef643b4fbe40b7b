"""What the page is made of: tables of numbers, and cards that each show one text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, inf, log10
from typing import NamedTuple

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


class Measured(NamedTuple):
    """A mean and its 95 % interval, in the unit of the mean."""

    value: float
    low: float
    high: float


class Estimated(NamedTuple):
    """The same of what is an estimate by sampling, with its standard error, which allows it so many digits."""

    value: float
    low: float
    high: float
    error: float

    def texts(self) -> list[str]:
        """Value, low and high end."""
        if not 0 < self.error < inf:
            return alike(self.value, self.low, self.high)
        place = floor(log10(self.error))
        numbers = [round(number, -place) for number in self[:3]]
        if -6 <= place <= 2:  # zeros at the end would pass for digits
            return [_text(number, max(0, -place)) for number in numbers]
        figures = [max(0, floor(log10(abs(number) or self.error)) - place) for number in numbers]
        return [f"{number:.{more}e}".replace("-", MINUS) for number, more in zip(numbers, figures, strict=True)]


Cell = str | int | float | Measured | Estimated | None


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `lead` columns are names, all others are set as numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    lead: int = 1

    def texts(self) -> list[list[str]]:
        """The cells as people read them: a column has as many decimals as its largest number needs."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        digits = [_digits(column) for column in columns]
        return [[_text(cell, places) for cell, places in zip(row, digits, strict=True)] for row in self.rows]


@dataclass(frozen=True)
class Card:
    """A text, and what is known of it."""

    title: str
    text: str
    tokens: int | None = None
    cut: bool = False
    """Did the length limit end it?"""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    """True rewards by objective, in its own direction; None where a judge refused."""
    notes: Sequence[str] = ()
    chosen: bool = False


def number(value: float | None) -> str:
    """A number alone, with as many decimals as it needs: none if it is whole."""
    if value is None:
        return NOTHING
    return alike(value)[0] if value % 1 else _text(int(value), 0)


def alike(*values: float) -> list[str]:
    """Numbers to be compared, with as many decimals as the largest needs."""
    digits = _digits(values)
    return [_text(float(value), digits) for value in values]


def together(values: Sequence[float], sign: bool = False) -> list[str]:
    """Numbers with the decimals that they share, and with their signs where they are differences."""
    return [f"+{text}" if sign and not text.startswith(MINUS) else text for text in alike(*values)]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else NOTHING


def shares(weights: Mapping[str, float] | None) -> str:
    """A preference weight for people: `helpful 0.4 · harmless 0.6`."""
    if weights is None:
        return NOTHING
    return " \N{MIDDLE DOT} ".join(f"{name} {value:.3g}" for name, value in weights.items())


def _digits(cells: Iterable[Cell]) -> int:
    """Decimals that show three figures or more of the largest number; -1 asks for powers of ten."""
    sizes = [abs(part) for cell in cells for part in _floats(cell)]
    largest = max(sizes, default=0.0)
    if 0 < largest < 0.01:
        return -1 if largest < 0.0001 else 5 if largest >= 0.001 else 6
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0


def _floats(cell: Cell) -> tuple[float, ...]:
    return cell if isinstance(cell, Measured) else (cell,) if isinstance(cell, float) else ()


def _text(cell: Cell, digits: int) -> str:
    if cell is None:
        return NOTHING
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Estimated):
        value, low, high = cell.texts()
        return f"{value} [{low}, {high}]"
    if isinstance(cell, Measured):
        value, low, high = (_text(part, digits) for part in cell)
        return f"{value} [{low}, {high}]"
    cell = round(cell, digits) + 0.0 if isinstance(cell, float) and digits >= 0 else cell  # nothing has no sign
    text = f"{cell:,}" if isinstance(cell, int) else f"{cell:,.{digits}f}" if digits >= 0 else f"{cell:.2e}"
    return text.replace("-", MINUS)
