"""What the stages ask of a model, recorded while they run: texts, log-probabilities and trainings."""

import importlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from sipo.bank import Adapter, Bank
from sipo.config import Training
from sipo.decoding import Generated, Request
from sipo.logprobs.packing import Group
from sipo.logprobs.score import Point
from sipo.logprobs.table import LogprobTable
from sipo.training.loop import Example, Trained

WRITERS, TRAINERS = ("sample", "refine", "answer"), ("align", "realign")


@dataclass(frozen=True)
class Texts:
    adapters: tuple[Adapter, ...]
    requests: list[Request]
    limit: int
    stops: Collection[int]
    answers: list[Generated]


@dataclass(frozen=True)
class Scores:
    adapters: tuple[Adapter, ...]
    groups: list[Group]
    models: dict[str, Point]
    table: LogprobTable


@dataclass(frozen=True)
class Learning:
    start: Adapter
    examples: list[Example]
    settings: Training
    lr: float
    seed: int
    alpha: float
    losses: list[float]


Asked = Texts | Scores | Learning


@dataclass
class Recorder:
    stage: str = ""
    asked: dict[str, list[Asked]] = field(default_factory=dict)

    def note(self, what: Asked) -> None:
        self.asked.setdefault(self.stage, []).append(what)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Within the block the stages' requests are noted under `stage`, which the caller sets."""
    recorder, fill = Recorder(), LogprobTable.fill

    def answering(original: Any) -> Any:
        def answer(bank: Bank, requests: Any, decoding: Any, limit: int, stops: Any, **rest: Any) -> list[Generated]:
            answers: list[Generated] = original(bank, requests, decoding, limit, stops, **rest)
            recorder.note(Texts(bank.adapters, list(requests), limit, stops, answers))
            return answers

        return answer

    def training(original: Any) -> Any:
        def train(
            bank: Bank, start: Adapter, examples: Any, validation: Any, settings: Training, **rest: Any
        ) -> Trained:
            result: Trained = original(bank, start, examples, validation, settings, **rest)
            losses = [record["loss"] for record in result.history]
            alpha = rest.get("alpha", 0.0)
            recorder.note(Learning(start, list(examples), settings, rest["lr"], rest["seed"], alpha, losses))
            return result

        return train

    def filling(self: LogprobTable, bank: Bank, groups: Any, models: Any, **rest: Any) -> None:
        groups = list(groups)
        fill(self, bank, groups, models, **rest)
        if groups:
            recorder.note(Scores(bank.adapters, groups, dict(models), self))

    with ExitStack() as patches:
        patches.enter_context(patch.object(LogprobTable, "fill", filling))
        for names, attribute, wrapped in ((WRITERS, "answer", answering), (TRAINERS, "train", training)):
            for name in names:
                module = importlib.import_module(f"sipo.stages.{name}")
                patches.enter_context(patch.object(module, attribute, wrapped(getattr(module, attribute))))
        yield recorder
