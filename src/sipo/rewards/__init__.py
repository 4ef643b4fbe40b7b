"""Rewards: what held-out responses are scored by, and what new preference rows are labelled with."""

from sipo.rewards.interface import Item, Scorer
from sipo.rewards.scoring import check_rewards, score_responses, signed_rewards, try_functions

__all__ = ["Item", "Scorer", "check_rewards", "score_responses", "signed_rewards", "try_functions"]
