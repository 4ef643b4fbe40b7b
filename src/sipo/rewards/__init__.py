"""Rewards: what held-out responses are scored by, and what new preference rows are labelled with.

Names are imported when first used: the configuration reads `sipo.rewards.kinds`, which loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sipo.rewards.interface import Item, Scorer
    from sipo.rewards.scoring import (
        check_rewards,
        first_preferred,
        score_responses,
        signed_rewards,
        try_functions,
    )

__all__ = ["Item", "Scorer", "check_rewards", "first_preferred", "score_responses", "signed_rewards", "try_functions"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sipo.rewards' has no attribute {name!r}")
    home = "interface" if name in ("Item", "Scorer") else "scoring"
    return getattr(import_module(f"sipo.rewards.{home}"), name)
