"""Whole models on a bank: the rows of each point in a forward of their own, the model wearing that point's weights."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from sipo.bank.cache import RoomyCache
from sipo.bank.head import Head
from sipo.bank.policy import Point, Reading, respanned
from sipo.bank.trunk import Sharing
from sipo.bank.whole import Whole, average, parameters_of, wearing
from sipo.errors import SipoError

if TYPE_CHECKING:
    from sipo.bank.bank import Bank


class Swapped:
    """The weights of a soup are made when a batch first asks for its point, and held until one does not."""

    def __init__(self, bank: "Bank", policies: Sequence[Whole]) -> None:
        self.bank, self.policies = bank, policies
        self.own = parameters_of(bank.model)
        self.training = any(weight.requires_grad for policy in policies for weight in policy.parameters)
        self._held: dict[Point, dict[str, Tensor]] = {}
        layer = bank.head.layer
        names = {id(each): name for name, each in bank.model.named_parameters()}
        self._head = {kind: names[id(each)] for kind, each in layer._parameters.items() if each is not None}

    @classmethod
    @contextmanager
    def on(cls, bank: "Bank", policies: Sequence[Whole]) -> Iterator["Swapped"]:
        """Raises SipoError where a policy is of another model."""
        own = parameters_of(bank.model)
        for policy in policies:
            for name in own.keys() ^ policy.weights.keys():
                raise SipoError(f"the policy and the model do not both have a parameter `{name}`: another base?")
            for name, weight in policy.weights.items():
                if weight.shape != own[name].shape:
                    raise SipoError(f"the policy's `{name}` is of another shape in the model: another base?")
        made = cls(bank, policies)
        try:
            yield made
        finally:
            made._held.clear()

    def forward(self, reading: Reading) -> Any:
        points, by_point = reading.points, self._rows(reading.points)
        self._hold(by_point)
        caches: Caches | None = reading.inputs.get("past_key_values")
        if caches is not None:
            caches.points = points
        outputs = []
        for point, rows in by_point.items():
            mine = reading.of(rows) if len(by_point) > 1 else reading
            if caches is not None:
                mine = replace(mine, inputs={**mine.inputs, "past_key_values": caches.at(point)})
            worn = partial(wearing, self.bank.model, self._held[point])
            with worn():
                outputs.append(self.bank.run(mine, worn))
        if len(outputs) == 1:
            return outputs[0]
        states = outputs[0].last_hidden_state.new_empty(len(points), *outputs[0].last_hidden_state.shape[1:])
        for rows, output in zip(by_point.values(), outputs, strict=True):
            states[rows] = output.last_hidden_state
        return BaseModelOutput(last_hidden_state=states)

    def heads(self, points: Tensor) -> list[tuple[Tensor | None, Head]]:
        by_point = self._rows(points)
        return [(rows if len(by_point) > 1 else None, self._head_at(point)) for point, rows in by_point.items()]

    def cache(self, sharing: Sharing | None = None) -> "Caches":
        return Caches(self.bank.model.config)

    def _head_at(self, point: Point) -> Head:
        layer, weights = copy(self.bank.head.layer), self._held[point]
        own: Any = {kind: weights[self._head[kind]] if kind in self._head else None for kind in layer._parameters}
        layer._parameters = own
        return replace(self.bank.head, layer=layer)

    def _rows(self, points: Tensor) -> dict[Point, Tensor]:
        return {point: rows.to(self.bank.device) for point, rows in rows_by_point(points).items()}

    def _hold(self, points: Collection[Point]) -> None:
        """Have the weights of these points, and of no others."""
        if self.training:
            self._held.clear()  # what is trained changes from step to step
        self._held = {point: weights for point, weights in self._held.items() if point in points}
        for point in points:
            if point not in self._held:
                self._held[point] = self._weights(point)

    def _weights(self, point: Point) -> dict[str, Tensor]:
        """On the model's device and in its dtype; those of a policy that lies there so are its own, no copy."""
        with torch.inference_mode(False), torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            with_share = [(share, policy) for share, policy in zip(point, self.policies, strict=True) if share]
            match with_share:
                case []:
                    return self.own
                case [(1.0, policy)]:
                    return {name: weight.to(self.own[name]) for name, weight in policy.weights.items()}
                case _:
                    return average(self.policies, point, self.own).weights


class Caches:
    """A cache for the rows of each point, in their order. `points` [rows, N] is told by the forward."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self.points: Tensor | None = None
        self.parts: dict[Point, RoomyCache] = {}

    def at(self, point: Point) -> RoomyCache:
        if point not in self.parts:
            self.parts[point] = RoomyCache(self.config)
        return self.parts[point]

    def selected(self, rows: Tensor, alike: Sequence[Hashable]) -> "Caches":
        made = Caches(self.config)
        made.points = self._points()[rows.cpu()]
        made.parts = {point: self.parts[point].selected(mine, None) for point, mine in self._places(rows).items()}
        return made

    def select(self, rows: Tensor, alike: Sequence[Hashable] | None = None) -> None:
        places, self.points = self._places(rows), self._points()[rows.cpu()]
        self.parts = {point: self.parts[point] for point in places}
        for point, mine in places.items():
            self.parts[point].select(mine)

    def _places(self, rows: Tensor) -> dict[Point, Tensor]:
        """By each point the places of these rows among its own."""
        points, chosen = self._points(), rows.cpu()
        before = rows_by_point(points)
        return {
            point: torch.searchsorted(before[point], chosen[places]).to(rows.device)
            for point, places in rows_by_point(points[chosen]).items()
        }

    def _points(self) -> Tensor:
        assert self.points is not None, "nothing was computed yet"
        return self.points

    @property
    def joins(self) -> bool:
        return all(part.joins for part in self.parts.values() or [RoomyCache(self.config)])

    def shift(self, columns: int) -> None:
        for part in self.parts.values():
            part.shift(columns)

    def join(self, other: "Caches") -> None:
        given = [each for each in (self.points, other.points) if each is not None]
        self.points = torch.cat(given)
        for point, part in other.parts.items():
            if point in self.parts:
                self.parts[point].join(part)
            else:
                self.parts[point] = part

    def respan(self, kept: Sequence[int], n: int) -> None:
        self.points = torch.tensor([respanned(tuple(point), kept, n) for point in self._points().tolist()])
        self.parts = {respanned(point, kept, n): part for point, part in self.parts.items()}


def rows_by_point(points: Tensor) -> dict[Point, Tensor]:
    """The rows at each point of [rows, N], in order."""
    found: dict[Point, list[int]] = {}
    for row, point in enumerate(points.tolist()):
        found.setdefault(tuple(point), []).append(row)
    return {point: torch.tensor(rows) for point, rows in found.items()}
