"""Text measures of responses that run anywhere: how much is said, and how plainly. For English."""

import re
from collections.abc import Sequence

from sipo.errors import SipoError

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


def words(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Number of words."""
    return [float(len(WORD.findall(response))) for response in responses]


def distinct_words(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Number of different words, upper and lower case alike: detail, which repetition does not raise."""
    return [float(len(set(WORD.findall(response.casefold())))) for response in responses]


def reading_ease(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Flesch reading ease, from 0 (hard) to 100 (plain); 0 for a text without words. Needs `sipo[text]`."""
    try:
        from textstat import flesch_reading_ease  # an optional extra
    except ModuleNotFoundError as error:
        raise SipoError(f"no module named `{error.name}`; pip install 'sipo[text]'") from None
    return [
        min(max(float(flesch_reading_ease(response)), 0.0), 100.0) if WORD.search(response) else 0.0
        for response in responses
    ]
