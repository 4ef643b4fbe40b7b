"""Plain statistics of a text, in any language: how much is said, in what words, and how it is set out."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from unicodedata import category

import numpy as np

from sipo.filters.contest import Array
from sipo.filters.features.spec import Answers, FeatureSpec

if TYPE_CHECKING:
    from sipo.logprobs.table import LogprobTable
    from sipo.task import Task

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters stand without spaces: each counts as a word."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:(?:['\u2019-]|(?<=\d)[.,](?=\d))[^\W{UNSPACED}]+)*")
SENTENCE_END = re.compile(r"[.!?]+(?!\w)|[\u2026\u3002\uff01\uff1f\u061f\u06d4\u0964]+|\n+")
ITEM = re.compile(r"\s*(?:[-*+\u2022#|>]|\(?\d+[.)])")
"""How a line of a list, a heading, a table or a quotation begins."""
NAMES = ("words", "different words", "characters a word", "words a sentence", "punctuation", "list")


def surface(text: str) -> list[float]:
    """By `NAMES`: two counts; two means, and two shares from 0 to 1, of characters and of lines. Zeros for no word.

    >>> surface("It is so. It is not so!")
    [7.0, 4.0, 2.142857142857143, 3.5, 0.08695652173913043, 0.0]
    """
    if not text.isascii():  # a vowel sign is no letter of its own, and no end of a word
        text = "".join(each for each in text if not category(each).startswith("M"))
    words = WORD.findall(text)
    if not words:
        return [0.0] * len(NAMES)
    sentences = [each for each in SENTENCE_END.split(text) if WORD.search(each)]
    lines = [line for line in text.splitlines() if line.strip()]
    marks = sum(not (each.isalnum() or each.isspace()) for each in text)
    return [
        float(len(words)),
        float(len({word.casefold() for word in words})),
        sum(map(len, words)) / len(words),
        len(words) / max(len(sentences), 1),
        marks / len(text),
        sum(bool(ITEM.match(line)) for line in lines) / len(lines),
    ]


def _measure(task: "Task", answers: Sequence[Answers], table: "LogprobTable") -> list[Array]:
    return [np.array([surface(text) for text in each.texts]) for each in answers]


FEATURES = FeatureSpec("surface", f"of the text: {', '.join(NAMES)}", _measure)
