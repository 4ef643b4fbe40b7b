"""A run's objectives as TRL's reward functions: what its GRPOTrainer calls with prompts and completions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sipo.data.chats import said
from sipo.errors import SipoError
from sipo.message import Message
from sipo.rewards.interface import Chat, Item
from sipo.rewards.objective import Objective
from sipo.rewards.scoring import score_responses


class RewardFunction:
    """One objective's reward, larger is better: an objective that is minimised has its sign turned.

    None where a judge refused a completion, which TRL leaves out of the sum.
    """

    def __init__(self, of: "_Together", objective: Objective) -> None:
        self._of, self._objective = of, objective
        self.__name__ = objective.name
        """How TRL names it where it logs."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        """Prompts and completions are texts, or chats: lists of messages."""
        items = [
            Item(_turns(x, "user"), _turns(y, "assistant")[-1].content)
            for x, y in zip(prompts, completions, strict=True)
        ]
        sign = 1.0 if self._objective.maximise else -1.0
        column = self._of.scores(items)[self._objective.name]
        return [None if math.isnan(value) else sign * value for value in column]


class _Together:
    """All objectives are asked about a batch at once: some have one model or judge in common."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        self._items: list[Item] = []
        self._columns: dict[str, list[float]] = {}

    def scores(self, items: list[Item]) -> dict[str, list[float]]:
        if items != self._items:
            self._columns = score_responses(self.objectives, items)
            self._items = items
        return self._columns


def reward_functions(objectives: Sequence[Mapping[str, Any]]) -> list[RewardFunction]:
    """One for each objective, in order. `objectives` are as a run's configuration has them.

    Raises SipoError for an objective that scores no completion by itself.

    >>> from sipo.rewards.grpo import reward_functions
    >>> brief = {"name": "brief", "better": "It is short.", "reward": "sipo.rewards.text:words"}
    >>> (reward,) = reward_functions([{**brief, "direction": "minimize"}])
    >>> reward(["What is rain?"], ["Water that falls."])
    [-3.0]
    """
    known = [Objective.model_validate(each) for each in objectives]
    for each in known:
        if not each.scores_alone:
            why = "compares with the base model's answer" if each.compares else "is missing"
            raise SipoError(f"objective `{each.name}`: its reward {why}, and a completion stands alone; give another")
    together = _Together(known)
    return [RewardFunction(together, each) for each in known]


def _turns(given: Any, role: str) -> Chat:
    """A text as it is, said by the role, or the turns of a chat."""
    if isinstance(given, str):
        return (Message(role, given),)
    turns = said(given, "a chat")
    return turns if isinstance(turns, tuple) and turns else (Message(role, ""),)
