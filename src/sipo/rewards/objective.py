"""What is better, in words, and what scores it."""

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from sipo.rewards.kinds.registry import kind_of, kinds
from sipo.settings.explain import explain
from sipo.settings.section import Name, Section

UNSAID = "Say here in one sentence what is better about a response that {name} prefers."
"""What `sipo init` writes as `better` where the user alone knows; no run starts from it."""

Reward: Any = reduce(or_, [spec.settings for spec in kinds().values()], str)


def file_of(function: str) -> tuple[Path, str] | None:
    """Of `FILE.py:function` the file and the name; None of `module:function`."""
    file, _, name = function.rpartition(":")
    return (Path(file), name) if file.endswith(".py") else None


class Objective(Section):
    name: Name
    """Letters, digits, _ and -; rows name their labels by it."""
    better: str
    """One sentence that says what a better response is; reviews, rewrites, judges and prompting quote it."""
    reward: Reward | None = None  # a function's name, or the settings of a kind
    """What scores held-out responses: `module:function`, (prompts, responses) -> one number each, or a mapping; a
    module is looked for beside the configuration first. Where an objective has none, held-out labels measure all
    methods."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether larger rewards are better."""

    @property
    def maximise(self) -> bool:
        return self.direction == "maximize"

    @property
    def compares(self) -> bool:
        """Is a response judged beside the base model's answer to the same prompt, and not alone?"""
        return isinstance(self.reward, Section) and kind_of(self.reward).compares(self.reward)

    @property
    def judged(self) -> bool:
        """Is its reward an opinion on what is better in words, which may err?"""
        return isinstance(self.reward, Section) and kind_of(self.reward).by_words

    @property
    def scores_alone(self) -> bool:
        """Has it a reward, and one that needs no other response to compare with?"""
        return self.reward is not None and not self.compares

    @model_validator(mode="after")
    def _wins_are_maximised(self) -> "Objective":
        if self.compares and not self.maximise:
            raise ValueError("direction must be maximize: the reward is the share of wins; say in better what wins")
        return self

    @field_validator("reward", mode="before")
    @classmethod
    def _reward_by_its_key(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | Section):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"write module:function, or a mapping that names one of {', '.join(kinds())}")
        kind = next((kind.settings for key, kind in kinds().items() if key in value), None)
        if kind is None:
            raise ValueError(f"a mapping names one of {', '.join(kinds())}; else write module:function")
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain(error, value, kind)) from None
