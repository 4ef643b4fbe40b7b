"""What the stages of a run wrote, read back as what their functions returned."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from sipo.config import Config
from sipo.declare.parts import RANKINGS, RESPONSES
from sipo.declare.stage import Output, Part, Stage
from sipo.disk.content import short_digest
from sipo.disk.damage import DamageError
from sipo.disk.run import RunFolder
from sipo.errors import SipoError
from sipo.graph.build import Graph
from sipo.graph.key import digest_of_part, key_of, outside_of
from sipo.places import path_of
from sipo.records import Ranking, Response
from sipo.settings import Model

PACE: Any = {"checkpoint_seconds": True, "report_to": True, "ray": {"address", "actors", "num_gpus"}}
"""Keys of `execution` with another value of which a stage that was begun goes on."""


def backbone_of(run: Path, config: Config) -> Model:
    """What the run's policies stand on: the model that it fine-tuned, or else the one it was given."""
    if not config.fine_tunes:
        return config.model
    RunFolder(run).verify("sft")
    return config.model.model_copy(update={"path": str(run.resolve() / "sft" / "model"), "revision": None})


class Outputs:
    """What a run's stages wrote. Every byte of a stage is compared with what it wrote before any is read.

    Raises SipoError for damage.

    >>> from sipo.declare.parts import POLICIES
    >>> outputs = sipo.Outputs(Path("runs/quickstart"), sipo.load_config("quickstart.yaml"))
    >>> [policy.rank for policy in outputs.read("align", POLICIES)]
    [2, 2]
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path_of(path)
        self.folder = RunFolder(self.path)
        self.config = config

    @cache  # noqa: B019 (lives as long as the run is worked on)
    def graph(self) -> Graph:
        return Graph(self.config)

    def read(self, stage: str, part: Part) -> Any:
        """A part of a stage. Raises SipoError where the run has no such stage."""
        if stage not in self.graph():
            raise SipoError(
                f"{self.path}: has no stage `{stage}`, because its methods are {', '.join(self.config.methods)}"
            )
        return self.of(self.graph()[stage][part])

    def measured(self) -> list[Response] | list[Ranking]:
        """What measures the run's methods: judged answers or, where an objective has no reward, rankings of held-out
        rows.
        """
        graph = self.graph()
        kind, part = ("ranked", RANKINGS) if self.config.by_labels else ("judged", RESPONSES)
        return [each for name in graph.within(kind) for each in self.of(graph[name][part])]

    def of(self, given: "Output | tuple[Output, ...] | Mapping[str, Output]") -> Any:
        """What a stage is given for an input."""
        match given:
            case Output():
                return self._read((given,))
            case tuple():
                return self._read(given)
            case _:
                return {name: self._read((each,)) for name, each in given.items()}

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """By the parameters of the stage's function."""
        return {name: self.of(given) for name, given in stage.inputs.items()}

    def key(self, stage: Stage, subject: Mapping[str, Any]) -> str | None:
        """The key that the stage's output should have; None where an input is not there."""
        inputs = {}
        for name, output in stage.outputs():
            record = self.folder.record(output.stage.name)
            if "files" not in record:
                return None
            inputs[name] = digest_of_part(record["files"], output.part)
        return key_of(stage, self.config, subject, inputs, self._outside(stage))

    def plan(self, key: str, anew: bool = False) -> str:
        """Of work in progress on a stage of this key, which goes on where it is the same."""
        execution = self.config.execution.model_dump(exclude=PACE)
        return short_digest(json.dumps([key, execution, *(["anew"] if anew else [])]))

    def _outside(self, stage: Stage) -> dict[str, str | None]:
        """What is not to be found from here is as it was: a finished run is read on machines that lack it."""
        found = outside_of(stage, self.config)
        if None in found.values():
            with suppress(DamageError):
                known = self.folder.record(stage.name).get("outside", {})
                found |= {place: known.get(place) for place, digest in found.items() if digest is None}
        return found

    def _read(self, outputs: tuple[Output, ...]) -> Any:
        places = [self.folder.verify(each.stage.name) / each.part.files for each in outputs]
        return outputs[0].part.read(places, self.config.names)
