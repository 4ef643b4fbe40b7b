"""What of a run is not on this machine yet, and can still be planned for: hub models, and rows to be prepared."""

from dataclasses import dataclass

from sipo.config import Config
from sipo.data.sources.finding import on_hub
from sipo.errors import SipoError
from sipo.estimate.sizes import stated
from sipo.models.shapes import is_here, shape_of
from sipo.rewards.kinds.model import RewardModel
from sipo.rewards.kinds.registry import kind_of
from sipo.settings import Section


@dataclass(frozen=True)
class Absent:
    model: bool = False
    rows: bool = False
    judges: tuple[str, ...] = ()
    """Objectives whose reward model is not here."""

    def __bool__(self) -> bool:
        return self.model or self.rows or bool(self.judges)


NOTHING = Absent()


def find_absent(config: Config) -> Absent:
    """Only what is for a run to fetch, or can be planned for without it: a model of unknown shape, or a missing file
    of rows, is an error where it is read."""
    model = config.model
    return Absent(
        model=not _here(model.path, model.revision),
        rows=_rows_absent(config),
        judges=tuple(
            objective.name
            for objective in config.objectives
            if (judge := judge_of(objective.reward)) is not None and not _here(judge.model, judge.revision)
        ),
    )


def _rows_absent(config: Config) -> bool:
    """Rows of a source on this machine are made when they are read."""
    source = config.data.source
    wanting = on_hub(source.name) if source is not None else stated(config) is not None
    return wanting and not config.data.path.exists()


def judge_of(reward: object) -> RewardModel | None:
    """The reward model that an objective names, if it names one."""
    return kind_of(reward).loads(reward) if isinstance(reward, Section) else None


def _here(path: str, revision: str | None) -> bool:
    try:
        return is_here(path, revision) or shape_of(path, revision) is None
    except SipoError:  # no such folder: loading it says so
        return True
