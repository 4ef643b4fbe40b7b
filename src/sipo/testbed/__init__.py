"""A synthetic language with exact rewards: multi-objective alignment in minutes on one core."""

from sipo.testbed.environment import Environment
from sipo.testbed.preparation import Testbed, prepare
from sipo.testbed.requests import ENVIRONMENTS, F, G, H
from sipo.testbed.sft import Sft

__all__ = ["ENVIRONMENTS", "Environment", "F", "G", "H", "Sft", "Testbed", "prepare"]
