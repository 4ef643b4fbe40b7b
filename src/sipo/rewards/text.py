"""Text measures of responses that run anywhere: how much is said, how plainly, how kindly. For English."""

import re
from collections.abc import Sequence

from sipo.commands import install_extra
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
        raise _missing(error) from None
    return [
        min(max(float(flesch_reading_ease(response)), 0.0), 100.0) if WORD.search(response) else 0.0
        for response in responses
    ]


def sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """VADER's compound score, from -1 (hostile) to 1 (friendly); 0 is neutral. Needs `sipo[text]`."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # an optional extra
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(response)["compound"]) for response in responses]


def _missing(error: ModuleNotFoundError) -> SipoError:
    return SipoError(f"no module named `{error.name}`; `{install_extra('text')}`")
