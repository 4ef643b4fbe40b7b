"""What the stages of a run wrote, read back as what they returned."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sipo.bank import Adapter
from sipo.config import Config, Model
from sipo.disk.tables import read_records
from sipo.logprobs.table import LogprobTable
from sipo.records import Candidate, Refinement, Sample
from sipo.runs.folder import RunFolder
from sipo.stages.align import read_policies


def backbone_of(run: Path, config: Config) -> Model:
    """What the run's policies stand on: the model that it fine-tuned, or else the one it was given."""
    if not config.fine_tunes:
        return config.model
    RunFolder(run).verify("sft")
    return config.model.model_copy(update={"path": str(run.resolve() / "sft" / "model"), "revision": None})


class Outputs:
    """Every byte of a stage is compared with what the stage wrote before any is read. Raises SipoError for damage."""

    def __init__(self, path: Path, objectives: Sequence[str]) -> None:
        self.path = path
        self.objectives = objectives

    def folder(self, stage: str) -> Path:
        return RunFolder(self.path).verify(stage)

    @cache  # noqa: B019 (lives as long as the stage that asks)
    def policies(self, stage: str) -> list[Adapter]:
        return read_policies(self.folder(stage), self.objectives)

    def samples(self) -> list[Sample]:
        return read_records(self.folder("sample") / "samples.jsonl", Sample)

    def refinements(self) -> list[Refinement]:
        return read_records(self.folder("refine") / "refinements.jsonl", Refinement)

    def candidates(self) -> list[Candidate]:
        return read_records(self.folder("filter") / "candidates.jsonl", Candidate)

    def logprobs(self, *stages: str) -> LogprobTable:
        table = LogprobTable()
        for stage in stages:
            table.read(self.folder(stage) / "logprobs.parquet")
        return table
