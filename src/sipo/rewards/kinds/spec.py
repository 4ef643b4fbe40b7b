"""What a kind of reward declares in its own file: the key that tells it, its keys, and what scores by them.

A file of this package, or an entry point of the group `sipo.rewards`, holds its declarations as `REWARDS`. The
configuration reads them, so nothing here or at the top of such a file loads torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sipo.settings.section import Section, check_name, check_section

if TYPE_CHECKING:
    from sipo.rewards.interface import Scorer
    from sipo.rewards.kinds.model import RewardModel


@dataclass(frozen=True)
class Measure:
    """What an objective takes of a scorer: scale * (its column) + shift."""

    column: int = 0
    scale: float = 1.0
    shift: float = 0.0
    first: int | None = None
    """The column of how often the scorer preferred what it read first; None where it reads a response alone."""


def nothing(_: Any) -> None:
    return None


def never(_: Any) -> bool:
    return False


@dataclass(frozen=True)
class RewardSpec:
    name: str
    """The key that tells a mapping of this kind."""
    settings: type[Section]
    says: str
    """What scores, in one line for people."""
    scorer: "Callable[..., tuple[Scorer, dict[str, Measure]]]"
    """scorer(settings, criteria, execution, moment): what scores, and what each objective of `criteria` takes of it,
    which has what is better in words where the kind goes by them. `moment` is what chat templates with a date are told.
    Raises SipoError."""
    by_words: bool = False
    """Does it go by what is better in words? Objectives with equal settings are then asked about together."""
    refusable: Callable[[Any], bool] = never
    """refusable(settings): may items stay without a score?"""
    compares: Callable[[Any], bool] = never
    """compares(settings): is a response held against the base model's answer to the same prompt? Its numbers are then
    shares of wins, from 0 to 1, and responses are told apart only where there is such an answer.
    """
    pace: frozenset[str] = frozenset()
    """Keys that change no number."""
    places: tuple[str, ...] = ()
    """Keys that may name a file or a folder, which counts by its content; those that are paths always do."""
    loads: "Callable[[Any], RewardModel | None]" = nothing
    """loads(settings): the classification model that it loads, for `sipo check` to plan with."""
    version: int = 1
    """Raised when it scores otherwise than before: what an earlier version scored is then judged anew."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no configuration could hold."""
        check_name(self.name)
        check_section(self.settings)
        for key in (self.name, *self.pace, *self.places):
            if key not in self.settings.model_fields:
                raise ValueError(f"{self.settings.__name__}, the settings of `{self.name}`, has no key `{key}`")
