"""Rewards by what a LoRA adapter and its base model say."""

from pathlib import Path

from sipo.declare.stage import later
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Dtype, Rate, Section


class Policy(Section):
    """The implicit reward beta * (log pi - log pi_ref) of a LoRA adapter in PEFT's format over its base model."""

    policy: Path
    beta: Rate = 0.1
    base: str | None = None
    """As model.path; null is what the adapter names."""
    dtype: Dtype = "auto"
    prompt_template: str | None = None

    def __str__(self) -> str:
        return f"policy {self.policy}"


REWARDS = (
    RewardSpec(
        "policy",
        Policy,
        "the implicit reward of an adapter",
        later("sipo.rewards.policy:measured"),
        places=("policy", "base"),
    ),
)
