"""What an answer is worth: what each policy makes of it, and what the objectives' own functions give it."""

import asyncio
from collections.abc import Sequence
from threading import Lock
from typing import Any, Literal

from sipo.bank import Policy
from sipo.engines.batched import Room, Single
from sipo.errors import SipoError
from sipo.finished.answering import Placed
from sipo.finished.built import ALONE
from sipo.finished.prompts import chat_of
from sipo.logprobs.packing import Group
from sipo.message import Message
from sipo.rewards.interface import Item
from sipo.rewards.objective import Objective
from sipo.rewards.scoring import score_responses
from sipo.serve.naming import Served
from sipo.serve.scheduler import Look, Scheduler
from sipo.serve.wire import ApiError, Body, Text

Scored = Literal["function", "other"] | None
TURN = Lock()
"""Functions of other people need not bear several threads."""


class WorthRequest(Body):
    prompt: Text
    response: str
    run: Text | None = None
    """None is the first that is served."""
    ended: bool
    """False where a limit cut it, so that its end is no part of it."""


def scored_by(objective: Objective) -> Scored:
    """A function answers at once; a model or a judge would keep the page waiting, or cost money."""
    return None if objective.reward is None else "function" if isinstance(objective.reward, str) else "other"


async def worth(served: Served, scheduler: Scheduler, asked: WorthRequest) -> dict[str, Any]:
    """`implicit`: by objective log pi_i(y | x) - log pi_ref(y | x), natural, summed over tokens, of the policies that
    the run aligned first; `rewards`: what functions give. null is what is not known. Raises ApiError.
    """
    try:
        chat = chat_of(asked.prompt)
        rewards = await asyncio.to_thread(_rewards, served.run.config.objectives, chat, asked.response)
        return {"implicit": await _implicit(served, scheduler, chat, asked), "rewards": rewards}
    except SipoError as error:
        raise ApiError(400, str(error)) from None


def _rewards(objectives: Sequence[Objective], chat: tuple[Message, ...], response: str) -> dict[str, float | None]:
    functions = [each for each in objectives if scored_by(each) == "function"]
    with TURN:
        found = score_responses(functions, [Item(chat, response)])
    return {each.name: found[each.name][0] if each.name in found else None for each in objectives}


async def _implicit(
    served: Served, scheduler: Scheduler, chat: Sequence[Message], asked: WorthRequest
) -> dict[str, float] | None:
    run = served.run
    alone = [f"{ALONE}{name}" for name in run.objectives]
    if not set(alone) <= set(served.methods):
        return None
    task = run.task
    prompt = tuple(task.codec.encode_prompt(chat, limit=task.backbone.context))
    response = (*task.codec.encode_text(asked.response), *(task.codec.closing if asked.ended else ()))
    if len(prompt) + len(response) > task.backbone.context:
        raise ApiError(400, f"prompt and answer are over the model's context of {task.backbone.context} tokens")
    if not response:
        return dict.fromkeys(run.objectives, 0.0)
    aligned = run.at(method=alone[0]).aligned
    policies: tuple[Policy, ...] = aligned.adapters

    def score(places: tuple[int, ...], mounted: int) -> list[float]:
        points = Placed(aligned, places, mounted).policies
        rows = Single([(Group(prompt, (response,)), point) for point in points])
        of_reference, *of_policies = rows(task.bank, Room(run.config.execution.here))
        return [float(each - of_reference) for each in of_policies]

    look = Look(policies, score)
    scheduler.look(look)
    return dict(zip(run.objectives, await asyncio.wrap_future(look.found), strict=True))
