"""Several values in one text, such as `helpful=0.3,harmless=0.7`."""

from collections.abc import Sequence

from sipo.errors import SipoError


def parse_shares(place: str, text: str) -> dict[str, float]:
    """`a=0.3,b=0.7` or `a=1/3,b=2/3` as shares by objective. Raises SipoError that names the place."""
    return {name: _number(place, name, share) for name, share in parse_pairs(place, text.split(",")).items()}


def parse_pairs(place: str, texts: Sequence[str]) -> dict[str, str]:
    """`name=value` texts as a mapping, none twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise SipoError(f"{place}: `{text}` is not of the form name=value")
        if name in pairs:
            raise SipoError(f"{place}: `{name}` is given twice; give it once")
        pairs[name] = value
    return pairs


def _number(place: str, name: str, text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise SipoError(f"{place}: {name}={text} is no number; write numbers such as {name}=0.5 or 1/3") from None
