"""What several verbs take: --json, and options that hold several values in one text (`helpful=0.3,plain=0.7`)."""

from typing import Annotated

import typer

from sipo.pairs import parse_pairs, parse_shares

__all__ = ["Json", "parse_pairs", "parse_rates", "parse_weights"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def parse_weights(text: str) -> dict[str, float]:
    """What `--weights` says. Raises SipoError."""
    return parse_shares("--weights", text)


def parse_rates(text: str | None) -> float | dict[str, float] | None:
    """What `--tokens-per-second` says: one number, or several by name. Raises SipoError."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return parse_shares("--tokens-per-second", text or "")
