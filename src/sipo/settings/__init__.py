"""Sections of the configuration: small sets of keys, typed and checked. They know of nothing but themselves.

The whole that they are put together to is `sipo.config`; what brings keys of its own has its section in its own file.
"""

from sipo.settings.improvement import Realign, Refine, Sample
from sipo.settings.model import Model
from sipo.settings.running import Decoding, Evaluate, Execution, Ray, Report, Weights
from sipo.settings.section import Section
from sipo.settings.training import Align, Lora, Sft, Training

__all__ = [
    "Align",
    "Decoding",
    "Evaluate",
    "Execution",
    "Lora",
    "Model",
    "Ray",
    "Realign",
    "Refine",
    "Report",
    "Sample",
    "Section",
    "Sft",
    "Training",
    "Weights",
]
