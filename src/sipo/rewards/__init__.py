"""Rewards: what held-out responses are scored by, and what new preference rows are labelled with."""

from sipo.rewards.interface import Reward, load_reward, score

__all__ = ["Reward", "load_reward", "score"]
