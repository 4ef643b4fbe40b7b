"""Rows from single responses with scores: every pair of the responses to a prompt."""

from collections.abc import Iterable, Iterator
from itertools import combinations

from sipo.data.columns import DIFFERS
from sipo.data.rows import Row, key_of
from sipo.data.sources.fields import better
from sipo.data.sources.grouping import grouped
from sipo.data.sources.interface import Answer, Dropped
from sipo.message import Message


def pairs(answers: Iterable[Answer | Dropped]) -> Iterator[Row | Dropped]:
    """All pairs of answers to the same prompt, in order of appearance; equal scores are ties."""
    dropped: list[Dropped] = []
    for group in grouped(_by_prompt(answers, dropped)):
        yield from dropped
        dropped.clear()
        yield from pairs_of(
            [Answer(tuple(Message(*turn) for turn in prompt), *others) for prompt, *others in group],
        )
    yield from dropped


def pairs_of(group: list[Answer]) -> Iterator[Row | Dropped]:
    """All pairs of the answers to one prompt."""
    if len(group) < 2:
        yield Dropped("the only response to its prompt")
    for one, other in combinations(group, 2):
        preferred = {name: better(score, other.scores[name]) for name, score in one.scores.items()}
        unread = {
            name: one.unread.get(name, DIFFERS) if one.unread.get(name) == other.unread.get(name) else DIFFERS
            for name in (*one.unread, *other.unread)
        }
        yield Row(one.prompt, (one.response, other.response), preferred, one.split, unread)


def _by_prompt(answers: Iterable[Answer | Dropped], dropped: list[Dropped]) -> Iterator[tuple[str, Answer]]:
    for answer in answers:
        if isinstance(answer, Dropped):
            dropped.append(answer)
        else:
            yield key_of(answer.prompt), answer
