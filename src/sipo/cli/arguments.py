"""What several verbs take: --json, and options that hold several values in one text (`helpful=0.3,plain=0.7`)."""

from collections.abc import Sequence
from typing import Annotated

import typer

from sipo.errors import SipoError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def parse_weights(text: str) -> dict[str, float]:
    """`a=0.3,b=0.7` or `a=1/3,b=2/3` as shares by objective. Raises SipoError."""
    return {name: _number(name, share) for name, share in parse_pairs("--weights", text.split(",")).items()}


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`name=value` texts as a mapping, none twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise SipoError(f"{option}: `{text}` is not of the form name=value")
        if name in pairs:
            raise SipoError(f"{option}: `{name}` is given twice; give it once")
        pairs[name] = value
    return pairs


def _number(name: str, text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise SipoError(f"--weights: {name}={text} is no number; write shares such as {name}=0.5 or 1/3") from None
