"""The page itself: everything on it is in the one file, and every text is escaped and free of control characters.

Prompts and responses are other people's text and may hold markup; the page's own policy also forbids it to load
anything from anywhere.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sipo.plain import plain
from sipo.report.parts import number


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
        loader=PackageLoader("sipo.report", ""),
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["inline"] = inline
    return environment.get_template("report.html.j2").render(**content)


def _plain(value: Any) -> Any:
    """Every value on the page passes here; what is HTML already has passed."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline(png: bytes) -> str:
    """A data URL."""
    return "data:image/png;base64," + b64encode(png).decode()
