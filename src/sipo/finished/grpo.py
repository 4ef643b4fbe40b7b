"""A run's rewards as a Python module for TRL's GRPOTrainer."""

from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

from sipo import __version__
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.rewards.grpo import reward_functions
from sipo.runs.status import read_run
from sipo.weights import as_weight

FILE = "sipo_rewards.py"
TEXT = '''"""The rewards of {about} for TRL's GRPOTrainer, at {shares}.

    from sipo_rewards import reward_funcs, reward_weights

    GRPOTrainer(
        model=...,
        reward_funcs=reward_funcs,
        args=GRPOConfig(reward_weights=reward_weights, ...),
        train_dataset=...,
    )

Larger is better in each: where the run minimises an objective, its sign is turned. Written by sipo {version}.
"""

from sipo.rewards.grpo import reward_functions

OBJECTIVES = {objectives}

reward_funcs = reward_functions(OBJECTIVES)
reward_weights = {weights}
'''


def export_grpo(run: Path, weights: Mapping[str, float], to: Path) -> dict[str, Any]:
    """Make the folder `to` with the module, and return its file, the rewards' names and their weights.

    Raises SipoError where an objective has no reward that scores a completion by itself.
    """
    check_name(to)
    config = read_run(run)
    weight = as_weight(weights, config.names, "weights")
    kept = {"name", "better", "reward", "direction"}
    objectives = [each.model_dump(mode="json", include=kept, exclude_defaults=True) for each in config.objectives]
    named = [each.__name__ for each in reward_functions(objectives)]
    shares = ", ".join(f"{name} {share:g}" for name, share in zip(named, weight, strict=True))
    text = TEXT.format(
        about=ascii(run.resolve().name)[1:-1].replace('"', "'"),
        shares=shares,
        version=__version__,
        objectives=pformat(objectives, width=110, sort_dicts=False),
        weights=list(weight),
    )
    with appearing(to) as folder:
        (folder / FILE).write_text(text, encoding="utf-8")
    return {"file": to / FILE, "rewards": named, "reward_weights": list(weight)}
