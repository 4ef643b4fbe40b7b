"""What the stages ask of a model, recorded while they run: texts and scores by an engine that notes them, trainings
where the stages begin them.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from sipo.bank import Adapter, Bank
from sipo.bank.policy import Point
from sipo.decoding import Generated, Request
from sipo.engines import Engine, Span, opened
from sipo.finite import NotFiniteError
from sipo.logprobs.score import ScoreRequest
from sipo.settings import Decoding, Execution
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Loss, Trained, Trainee, train_together


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
    requests: list[ScoreRequest]
    values: list[float]

    def spread(self, few: int) -> list[tuple[Point, list[int]]]:
        """Of every policy and soup (of the reference, where it is alone) the indices of some `few` requests."""
        by_point: dict[Point, list[int]] = {}
        for index, request in enumerate(self.requests):
            by_point.setdefault(request.mixture.points[0], []).append(index)
        moving = {point: indices for point, indices in by_point.items() if any(point)} or by_point
        return [(point, indices[:: -(-len(indices) // few)]) for point, indices in moving.items()]


@dataclass(frozen=True)
class Learning:
    start: Adapter
    examples: list[Example]
    recipe: Recipe
    loss: Loss
    losses: list[float]


Asked = Texts | Scores | Learning


@dataclass
class Recorder:
    stage: str = ""
    asked: dict[str, list[Asked]] = field(default_factory=dict)

    def note(self, what: Asked) -> None:
        self.asked.setdefault(self.stage, []).append(what)

    @contextmanager
    def opened(self, execution: Execution, bank: Bank) -> Iterator[Engine]:
        """In place of `sipo.engines.opened`."""
        with opened(execution, bank) as engine:
            yield Recording(engine, self)


@dataclass(frozen=True)
class Recording:
    """An engine that notes what another is asked, and what that gives, once it has all of it."""

    engine: Engine
    recorder: Recorder

    def generate(
        self,
        span: Span,
        requests: Sequence[Request],
        decoding: Decoding,
        limit: int,
        stops: Collection[int],
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Generated]]:
        found: dict[int, Generated] = {}
        for unit, text in self.engine.generate(span, requests, decoding, limit, stops, done):
            found[unit] = text
            yield unit, text
        if found:
            mine = sorted(found)
            answers = [found[unit] for unit in mine]
            self.recorder.note(Texts(span.loaded, [requests[unit] for unit in mine], limit, stops, answers))

    def score(
        self, span: Span, requests: Sequence[ScoreRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, float]]:
        found: dict[int, float] = {}
        for unit, value in self.engine.score(span, requests, done):
            found[unit] = value
            yield unit, value
        if found:
            mine = sorted(found)
            values = [found[unit] for unit in mine]
            self.recorder.note(Scores(span.loaded, [requests[unit] for unit in mine], values))


@contextmanager
def recording() -> Iterator[Recorder]:
    """What is asked is noted under `stage`, which the caller sets: trainings within the block, texts and scores of
    tasks that have `Recorder.opened` for their engines.
    """
    recorder = Recorder()

    def noted(bank: Bank, trainees: Sequence[Trainee], **rest: Any) -> list[Trained | NotFiniteError]:
        results = train_together(bank, trainees, **rest)
        for each, result in zip(trainees, results, strict=True):
            assert isinstance(result, Trained)
            assert isinstance(each.start, Adapter)
            losses = [record["loss"] for record in result.history]
            recorder.note(Learning(each.start, list(each.examples.train), each.recipe, each.loss, losses))
        return results

    with patch("sipo.training.policies.train_together", noted):
        yield recorder
