"""Options that hold several values in one text, such as `helpful=0.3,harmless=0.7`."""

from collections.abc import Sequence

from sipo.errors import SipoError


def parse_weights(text: str) -> dict[str, float]:
    """`a=0.3,b=0.7` as shares by objective. Raises SipoError; that they lie on the simplex is checked elsewhere."""
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
    try:
        return float(text)
    except ValueError:
        raise SipoError(f"--weights: {name}={text} is no number; write shares such as {name}=0.5") from None
