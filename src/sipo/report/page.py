"""The page itself: everything on it is in the one file, and every text is escaped and free of control characters.

Prompts and responses are other people's text and may hold markup; the page's own policy also forbids it to load
anything from anywhere.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sipo.plain import plain
from sipo.report.decision import ratio
from sipo.report.parts import number, together
from sipo.words import quantity

DASHES = {"--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
"""Of lines, as SVG has them."""


def render(**content: Any) -> str:
    """The HTML of `report.html.j2`; it says what it needs, and a missing name is an error."""
    return _environment().get_template("report.html.j2").render(**content)


@cache
def _environment() -> Environment:
    """One a process: it keeps the templates that it has compiled."""
    environment = Environment(
        loader=PackageLoader("sipo.report", "page"),
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["quantity"] = quantity
    environment.filters["together"] = together
    environment.globals["dashes"] = DASHES
    environment.filters["ratio"] = ratio
    return environment


def _plain(value: Any) -> Any:
    """Every value on the page passes here; what is HTML already has passed."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
