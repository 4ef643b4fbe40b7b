"""Rewards by a published reward model, by a name."""

from typing import TYPE_CHECKING

from sipo.declare.stage import later
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Dtype, Section

if TYPE_CHECKING:
    from sipo.rewards.kinds.model import RewardModel


class Preset(Section):
    """A published reward model with its head, format and scale filled in (`sipo.rewards.presets`)."""

    preset: str
    model: str | None = None
    """Where a copy of it is; null is its hub id."""
    dtype: Dtype = "auto"

    def __str__(self) -> str:
        return f"preset {self.preset}"


def _resolved(reward: Preset) -> "RewardModel | None":
    from sipo.errors import SipoError
    from sipo.rewards.presets import resolve

    try:
        return resolve(reward)
    except SipoError:  # validation says it with the reward's name
        return None


REWARDS = (
    RewardSpec(
        "preset",
        Preset,
        "a published reward model",
        later("sipo.rewards.presets:measured"),
        places=("model",),
        loads=_resolved,
    ),
)
