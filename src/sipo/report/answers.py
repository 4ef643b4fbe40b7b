"""The knob: held-out prompts as every method answers them at every weight that was asked."""

from collections.abc import Sequence
from typing import Any

from sipo.records import Response
from sipo.report.parts import shares

Answer = tuple[str, list[float | None], int, bool]
"""text, true rewards in the order of the objectives that have one, tokens, whether the length limit cut it"""


def places(responses: Sequence[Response]) -> list[dict[str, float]]:
    """The weights that were asked for, in order."""
    return list({shares(each.weights): each.weights for each in responses if each.weights is not None}.values())


def middle(places: Sequence[dict[str, float]]) -> int:
    """The place whose largest share is smallest."""
    return min(range(len(places)), key=lambda at: max(places[at].values()), default=0)


def answered(responses: Sequence[Response], objectives: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """At most `limit` prompts, each with its answers by method, one for each place: of several at a weight the first,
    and of a method that no weight steers the draw that shares its noise with that weight's answers.
    """
    at = {shares(weights): place for place, weights in enumerate(places(responses))}
    prompts: dict[str, dict[str, Any]] = {}
    for each in responses:
        if each.index or (each.prompt not in prompts and len(prompts) == limit):
            continue
        found = prompts.setdefault(each.prompt, {"prompt": each.text, "answers": {}})
        place = each.draw if each.weights is None else at[shares(each.weights)]
        rewards = [each.rewards[name] for name in objectives]
        answer: Answer = (each.response, rewards, each.length, not each.finished)
        found["answers"].setdefault(each.method, {})[place] = answer
    return [
        {**each, "answers": {name: _in_order(mine) for name, mine in each["answers"].items()}}
        for each in prompts.values()
    ]


def _in_order(answers: dict[int, Answer]) -> list[Answer]:
    """By place; a single one serves all of them."""
    return [answers[place] for place in sorted(answers)]
