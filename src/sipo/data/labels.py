"""Labels, scores and splits as people and pandas write them: one reading of each, for every kind of file."""

import json
import math
from typing import Literal, get_args

from sipo.errors import SipoError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

MISSING = ("", "n/a", "na", "<na>", "nan", "nat", "null", "none")
EVEN = ("tie", "draw", "equal", "both", "neither")
TIES = (*MISSING, *EVEN)
NAMES: dict[str, int] = {
    **dict.fromkeys(("a", "response_0", "response_a", "model_a", "answer_a"), 0),
    **dict.fromkeys(("b", "response_1", "response_b", "model_b", "answer_b"), 1),
}
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def as_label(found: object, name: str) -> int | None:
    """The index of the better response, or None for a tie or no label: 0 and 1 as any number or text, A and B, the
    names of the responses. A boolean does not say which response is meant.
    """
    if isinstance(found, str) and (word := found.strip().casefold()) in (*TIES, *NAMES):
        return NAMES.get(word)
    try:
        value = math.inf if isinstance(found, bool) else as_number(found, name)
    except SipoError:
        value = math.inf
    if value is None or value in (0, 1):
        return None if value is None else int(value)
    raise SipoError(f"{name} is {shown(found)}; use 0, 1, or null for a tie or no label")


def as_number(found: object, name: str) -> float | None:
    """A finite score, as a number or as text; None where there is none, in any of the ways that files have for it."""
    if found is None or (isinstance(found, str) and found.strip().casefold() in MISSING):
        return None
    try:
        value = math.inf if isinstance(found, bool) else float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.inf
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise SipoError(f"{name} is {shown(found)}; it must be a number, a finite one, or null where there is no score")
    return value


def as_split(found: object, name: str) -> Split | None:
    """The split that a text names, or None where it is missing."""
    if found is None or (isinstance(found, float) and math.isnan(found)):
        return None
    word = found.strip().casefold() if isinstance(found, str) else None
    if word in MISSING:
        return None
    if word not in SPLIT_NAMES:
        raise SipoError(f"{name} is {shown(found)}; use {', '.join(SPLITS)} or null, or rename the column")
    return SPLIT_NAMES[word]


def shown(found: object) -> str:
    return json.dumps(found, default=str, ensure_ascii=False)[:60]
