"""The page itself: everything on it is in the one file, and every text is escaped and free of control characters.

Prompts and responses are other people's text and may hold markup; the page's own policy also forbids it to load
anything from anywhere.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sipo.plain import plain
from sipo.report.decision import ratio
from sipo.report.parts import MINUS, alike, number

DASHES = {"--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
"""Of lines, as SVG has them."""


@dataclass(frozen=True)
class Picture:
    """A PNG for light pages and one for dark ones."""

    light: bytes
    dark: bytes
    alt: str

    @property
    def width(self) -> int:
        """In pixels of the page, of which each has one and a half of the picture's: sharp on fine screens too."""
        return int.from_bytes(self.light[16:20]) * 2 // 3  # PNG's header


def render(**content: Any) -> str:
    """The HTML of `report.html.j2`; it says what it needs, and a missing name is an error."""
    environment = Environment(
        loader=PackageLoader("sipo.report", "page"),
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["inline"] = inline
    environment.filters["together"] = together
    environment.globals["dashes"] = DASHES
    environment.filters["ratio"] = ratio
    return environment.get_template("report.html.j2").render(**content)


def together(values: Sequence[float], sign: bool = False) -> list[str]:
    """Numbers with the decimals that they share, and with their signs where they are differences."""
    return [f"+{text}" if sign and not text.startswith(MINUS) else text for text in alike(*values)]


def _plain(value: Any) -> Any:
    """Every value on the page passes here; what is HTML already has passed."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline(png: bytes) -> str:
    """A data URL."""
    return "data:image/png;base64," + b64encode(png).decode()
