"""The sequential route through a whole run: what the stages asked, one request after the other.

Texts and scores as in `sequential`, trainings by TRL. Each request costs the same whenever it comes, so a few of a
kind are enough to know the cost of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.alternatives import sequential, trl_dpo
from benchmarks.alternatives.switched import Switched
from benchmarks.recording import Asked, Learning, Scores, Texts
from sipo.bank import Adapter, new_adapter
from sipo.models.load import Backbone
from sipo.settings import Lora

FEW = 6
"""Requests of a kind that are replayed."""


@dataclass(frozen=True)
class Replay:
    """`share` is the part of the whole that `run` does; `run` takes what `prepare` returned."""

    asked: Asked
    run: Callable[[Any], Any]
    share: float
    prepare: Callable[[], Any] = lambda: None
    places: Sequence[int] = ()
    """Of the requests that it does, in its order."""


class Replayer:
    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._switched: dict[tuple[int, ...], Switched] = {}

    def of(self, asked: Asked) -> Replay:
        match asked:
            case Texts():
                return self._texts(asked)
            case Scores():
                return self._scores(asked)
            case Learning():
                return Replay(asked, trl_dpo.train_one_after_the_other, 1.0, lambda: [self._trainer(asked)])

    def switched(self, adapters: tuple[Adapter, ...]) -> Switched:
        key = tuple(map(id, adapters))
        if key not in self._switched:
            self._switched[key] = Switched(self.backbone, adapters)
        return self._switched[key]

    def _texts(self, asked: Texts) -> Replay:
        places = range(0, len(asked.requests), -(-len(asked.requests) // FEW))  # spread over all methods and weights
        few = [asked.requests[place] for place in places]

        def run(switched: Switched) -> list[tuple[int, ...]]:
            texts = []
            for each in few:
                points, weights = each.mixture.points, each.mixture.weights
                several = len(points) > 1  # only MOD runs a reference beside its policies
                texts += sequential.decode(
                    switched, [each.prompt], points, [weights], asked.limit, reference=several, stops=asked.stops
                )
            return texts

        def prepare() -> Switched:
            switched = self.switched(asked.adapters)
            for each in few:
                for point in each.mixture.points:
                    switched.name(point)
            return switched

        return Replay(asked, run, len(few) / len(asked.requests), prepare, places)

    def _scores(self, asked: Scores) -> Replay:
        # Before there are policies the reference is all there is, and any adapter's base is it.
        adapters = asked.adapters or (_nothing(self.backbone),)
        spread = asked.spread(FEW)
        work = [(point or (0.0,), [asked.requests[place][:2] for place in places]) for point, places in spread]

        def prepare() -> Switched:
            switched = self.switched(adapters)
            for point, _ in work:
                switched.name(point)
            return switched

        def run(switched: Switched) -> list[list[float]]:
            return [sequential.score(switched, pairs, [point])[0] for point, pairs in work]

        places = [place for _, some in spread for place in some]
        whole = sum(len(each) for _, each in asked.spread(len(asked.requests)))
        return Replay(asked, run, len(places) / whole, prepare, places)

    def _trainer(self, asked: Learning) -> Any:
        generator = torch.Generator().manual_seed(asked.recipe.seed)
        rows = []
        for i in torch.randperm(len(asked.examples), generator=generator).tolist():
            example = asked.examples[i]
            prompt, responses = example.group.prompt, example.group.responses
            for first, second, sign in example.pairs:
                better, worse = (first, second) if sign > 0 else (second, first)
                rows.append((prompt, responses[better], responses[worse]))
        fresh = not any(bool(b.any()) for _, b in asked.start.factors.values())
        return trl_dpo.trainer(
            self.backbone,
            asked.start,
            trl_dpo.Pairs(tuple(rows)),
            asked.recipe.settings,
            asked.recipe.lr,
            pairs_a_step=asked.recipe.settings.batch_size * len(asked.examples[0].pairs),
            alpha=asked.loss.alpha,
            from_base=fresh,
        )


def _nothing(backbone: Backbone) -> Adapter:
    return new_adapter(backbone.model, Lora(r=1), 0)
