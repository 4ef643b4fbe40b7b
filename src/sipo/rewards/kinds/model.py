"""Rewards by one head of a sequence-classification model."""

from pydantic import field_validator

from sipo.declare.stage import later
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Dtype, Natural, Number, Section


class RewardModel(Section):
    """One head of a sequence-classification model; the reward is scale * logit + shift."""

    model: str
    """A hub id or a folder."""
    revision: str | None = None
    head: Natural | str = 0
    """An index, or a name among the model's labels."""
    scale: Number = 1.0
    shift: Number = 0.0
    format: str = "chat"
    """The tokenizer's chat template; `pair`, prompt and response as two segments; or a text with {prompt} and
    {response}, and {eos} for the tokenizer's end token."""
    dtype: Dtype = "auto"

    @field_validator("format")
    @classmethod
    def _has_its_places(cls, text: str) -> str:
        if text not in ("chat", "pair") and not all(place in text for place in ("{prompt}", "{response}")):
            raise ValueError("must be chat, pair, or a text with {prompt} and {response}")
        return text

    def __str__(self) -> str:
        return f"model {self.model}, head {self.head}"


def _itself(reward: RewardModel) -> RewardModel:
    return reward


REWARDS = (
    RewardSpec(
        "model",
        RewardModel,
        "a head of a reward model",
        later("sipo.rewards.model:measured"),
        places=("model",),
        loads=_itself,
    ),
)
