"""Held-out prompts answered by every method, side by side, at each weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from sipo.records import Response
from sipo.report.parts import Card, shares


@dataclass(frozen=True)
class Answered:
    prompt: str
    cards: list[Card]
    """By weight, then method; those that no weight steers come first."""


def places(responses: Sequence[Response]) -> list[str]:
    """The weights for people, in order."""
    return list(dict.fromkeys(shares(each.weights) for each in responses if each.weights is not None))


def most_balanced(responses: Sequence[Response]) -> int:
    """Which of the places to show first: the one whose largest share is smallest."""
    largest = {shares(each.weights): max(each.weights.values()) for each in responses if each.weights is not None}
    labels = list(largest)
    return min(range(len(labels)), key=lambda i: largest[labels[i]], default=0)


def answered(responses: Sequence[Response], limit: int) -> list[Answered]:
    """At most `limit` prompts; of several answers at a weight, or of draws that no weight steers, the first."""
    at = {label: i for i, label in enumerate(places(responses))}
    prompts: dict[str, list[Response]] = {}
    for each in responses:
        if each.index == 0 and each.draw == 0:
            prompts.setdefault(each.prompt, []).append(each)
    return [
        Answered(mine[0].text, sorted((_card(each, at) for each in mine), key=_order))
        for mine in list(prompts.values())[:limit]
    ]


def _card(each: Response, at: dict[str, int]) -> Card:
    place = None if each.weights is None else at[shares(each.weights)]
    notes = [] if each.weights is None else [shares(each.weights)]
    return Card(
        each.method, each.response, method=each.method, place=place, tokens=each.length,
        cut=not each.finished, rewards=each.rewards, notes=notes,
    )  # fmt: skip


def _order(card: Card) -> int:
    return -1 if card.place is None else card.place
