"""The settings of a run: the small set of keys that people write, typed and checked.

A stage sees only the keys that `sipo.graph.build` declares for it, which is how a changed key invalidates exactly what
depends on it.
"""

from sipo.config.improvement import Realign, Refine, Sample
from sipo.config.inputs import Data, Model
from sipo.config.objectives import Objective
from sipo.config.run import Config, Decoding, Evaluate, Execution
from sipo.config.training import Align, Lora, Sft, Training
from sipo.filters.spec import Filter
from sipo.rewards.kinds.judge import Judge
from sipo.rewards.kinds.model import RewardModel
from sipo.rewards.kinds.policy import Policy
from sipo.rewards.kinds.preset import Preset
from sipo.section import Section

__all__ = [
    "Align",
    "Config",
    "Data",
    "Decoding",
    "Evaluate",
    "Execution",
    "Filter",
    "Judge",
    "Lora",
    "Model",
    "Objective",
    "Policy",
    "Preset",
    "Realign",
    "Refine",
    "RewardModel",
    "Sample",
    "Section",
    "Sft",
    "Training",
]
