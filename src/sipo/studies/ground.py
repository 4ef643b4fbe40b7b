"""Where a study is done: an environment of the testbed, or a configuration with data and rewards of its own.

A ground gives the settings of an ordinary run for a seed; a study turns keys of them.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sipo.config import Config
from sipo.config.file import dump_config, load_config, parse_config
from sipo.disk.content import sha256_of, short_digest
from sipo.disk.tables import read_checked, write_checked
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.key import outside_of
from sipo.models.load import identify
from sipo.pareto.indicators import Array, reference_below
from sipo.progress import Progress
from sipo.task import rows_file
from sipo.testbed import ENVIRONMENTS, Environment, Sft, Testbed, prepare

Settings = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """`name` names its folder; `where` is what `--on` was given."""

    name: str
    where: str
    folder: Path

    def settings(self, seed: int, progress: Progress) -> Settings:
        """Of a run with this seed. All studies share its folder, and so whatever they have in common."""
        if environment := self._environment():
            sft = Sft(teach=("respond",)) if self.name.endswith(UNTAUGHT) else Sft()
            settings = prepare(environment, seed, self.folder / "prepared", sft=sft).settings()
        else:
            config = load_config(self.where)
            if config.by_labels:
                lacking = next(each.name for each in config.objectives if each.reward is None)
                raise SipoError(f"{self.where}: a study measures by rewards, and `{lacking}` has none; name one")
            rows_file(config, progress)
            settings = yaml.safe_load(dump_config(config))
        return {**settings, "seed": seed, "run_dir": str(self.folder / f"seed-{seed}")}

    def about(self) -> str:
        """Tells seeds that were measured here from those of other settings, rows, models or rewards."""
        if environment := self._environment():  # rows and model follow from it and the seed
            settings = yaml.safe_load(Testbed(environment, 0, Path(), Path("rows.jsonl")).config_text())
            return _digest({**settings, "data": {**settings["data"], "path": self.name}}, [])
        return digest_of({**yaml.safe_load(dump_config(load_config(self.where))), "seed": None})

    def _environment(self) -> Environment | None:
        """None of a configuration."""
        if self.where.partition(":")[0] != TESTBED:
            return None
        return ENVIRONMENTS[self.name.removeprefix(f"{TESTBED}-").removesuffix(UNTAUGHT)]


def digest_of(settings: Settings) -> str:
    """Of settings, of what they name and of the versions of its stages; what changes nothing but where and how a run is
    made is left out.
    """
    config = parse_config({**settings, "seed": settings["seed"] or 0}, "study")
    return _digest(settings, [sha256_of(config.data.path), identify(config.model)])


def _digest(settings: Settings, files: list[str]) -> str:
    config = parse_config({**settings, "seed": settings["seed"] or 0}, "study")
    graph = Graph(config)
    named: dict[str, Any] = {each: about for stage in graph for each, about in outside_of(stage, config).items()}
    named |= {stage.name: stage.version for stage in graph if stage.version > 1}
    content = [named, *files]
    kept = {key: value for key, value in settings.items() if key not in ("run_dir", "execution", "report")}
    return short_digest(json.dumps([kept, content], sort_keys=True, default=str))


TESTBED = "testbed"
UNTAUGHT = "-untaught"
"""Ends the name of an environment whose model was not taught to review and rewrite: the control of what that leaks."""


def find_ground(on: str, studies: Path) -> Ground:
    """`testbed`, `testbed:G`, `testbed:H-untaught`, or a configuration's path. Raises SipoError for anything else."""
    if on.partition(":")[0] == TESTBED:
        environment = on.partition(":")[2] or "H"
        if environment.removesuffix(UNTAUGHT) not in ENVIRONMENTS:
            raise SipoError(f"--on {on}: the testbed has no environment `{environment}`, but {', '.join(ENVIRONMENTS)}")
        name = f"testbed-{environment}"
    else:
        load_config(on)
        name = Path(on).stem
    return Ground(name, on, studies / name)


def reference_point(config: Config, points_M_N: Array, folder: Path) -> dict[str, float]:
    """The corner that a study's hypervolumes are measured from: the configuration's, or one a quarter of the range
    worse than the worst of the points, which is made with the first seed and kept in the study's `folder`, so that
    later seeds measure from the same place.
    """
    if config.evaluate.reference_point is not None:
        return dict(config.evaluate.reference_point)
    path = folder / "reference_point.json"
    if not path.exists():
        corner = reference_below(points_M_N, config.maximise, slack=0.25)
        mine = path.with_name(f".{path.name}.{config.seed}")
        write_checked(mine, dict(zip(config.names, corner.tolist(), strict=True)))
        with suppress(FileExistsError):  # another seed's process was first: its point is everyone's
            os.link(mine, path)
        mine.unlink()
    return read_checked(path)
