"""The methods by name, and the stage whose adapters each answers with. Nothing here loads torch."""

from collections.abc import Iterable
from difflib import get_close_matches

STAGE_OF = {
    "base": "align",
    "policies": "align",
    "soups": "align",
    "factor-soups": "align",
    "mod": "align",
    "mod-forward-kl": "align",
    "mod-alpha": "align",
    "mod-jensen-shannon": "align",
    "lw": "lw",
    "modpo": "modpo",
    "raco": "raco",
    "consensus": "consensus",
    "sipo": "realign",
    "sipo-soups": "realign",
}


def check_name(name: str) -> str:
    """The name itself. Raises ValueError, with the nearest one, where there is no such method."""
    if name not in STAGE_OF:
        near = get_close_matches(name, STAGE_OF, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"they are {', '.join(STAGE_OF)}"
        raise ValueError(f"`{name}` is no method; {hint}")
    return name


def stages_needed(names: Iterable[str]) -> set[str]:
    return {STAGE_OF[name] for name in names}
