"""The prompts of requests as they are read: at once, or a portion at a time while others write.

What rows have in common is computed once: the prefix that all prompts share (a system turn, in-context examples) once a
point, a prompt once for all requests that read it under the same point. A model for which that is not exact reads
prompts of one length together, and spares nothing.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.cache import Cache
from sipo.bank.layout import PADDING, Layout
from sipo.bank.policy import Point
from sipo.bank.trunk import Sharing
from sipo.decoding.batch import Batch, Request

Row = tuple[tuple[int, ...], Point]
"""A prompt under a point."""


@dataclass(frozen=True)
class Stem:
    """What the prompts of many requests begin with, read once for all of them, whenever they come."""

    columns: int
    points: Sequence[Point]
    cache: Cache
    """Of a row for each point."""


def stem_of(bank: Bank, requests: Sequence[Request], most: int) -> Stem | None:
    """None where they have nothing in common that would be spared, the model does not let it be shared, or they are of
    more points than the `most` rows that are computed at once.
    """
    if not bank.routes.mixes:
        return None
    rows = list(dict.fromkeys(_rows(requests)))
    shared, points = _shared(rows), _points(rows)
    if len(points) > most:
        return None
    cache = bank.cache(Sharing.by([None for _ in points], bank.device))
    if not (shared and cache.joins):
        return None
    ids = torch.tensor([rows[0][0][:shared]] * len(points), device=bank.device)
    with torch.inference_mode():
        bank.hidden_states(torch.tensor(points), input_ids=ids, past_key_values=cache, use_cache=True)
    return Stem(shared, points, cache)


class Reading:
    """Requests whose prompts are read together, column by column."""

    def __init__(self, bank: Bank, requests: Sequence[Request], stem: Stem | None = None) -> None:
        """All of the prompts begin with the `stem`, if there is one."""
        self.bank, self.requests = bank, list(requests)
        self.columns = 0
        """That have been read."""
        rows = self._rows()
        if stem is None:
            self.shared = _shared(rows) if bank.routes.mixes else 0
            alike: list[Hashable] = [None for _ in _points(rows)] if self.shared else self._read_alike(rows)
            self.cache = bank.cache(Sharing.by(alike, bank.device))
        else:
            self.shared = self.columns = stem.columns
            places = torch.tensor([stem.points.index(point) for _, point in rows], device=bank.device)
            self.cache = stem.cache.selected(places, self._read_alike(rows))
        self.ids, self.layout = _padded([prompt[self.shared :] for prompt, _ in rows], self.shared)
        self.layout = self.layout and self.layout.to(bank.device)

    @property
    def whole(self) -> bool:
        """Is it read in one go, however long?"""
        return not (self.bank.routes.mixes and self.cache.joins)

    def advance(self, most: int | None = None) -> Batch | None:
        """Read on: all that is left, or about so many tokens; the batch, once all is read."""
        left = None if self.whole else most
        rows, end = self._rows(), self.shared + self.ids.shape[1]
        stems = _points(rows)
        while left is None or left > 0:
            stem = self.columns < self.shared
            points = stems if stem else [point for _, point in rows]
            upto = self.shared if stem else end
            if left is not None:
                upto = min(upto, self.columns + max(1, left // len(points)))
                left -= len(points) * (upto - self.columns)
            if stem:
                ids, layout = torch.tensor([rows[0][0][self.columns : upto]] * len(points)), None
            else:
                ids = self.ids[:, self.columns - self.shared : upto - self.shared]
                layout = self.layout and self.layout.until(upto)
            at = torch.tensor(points)
            output = self.bank.hidden_states(
                at, layout=layout, input_ids=ids.to(self.bank.device), past_key_values=self.cache, use_cache=True
            )
            self.columns = upto
            if upto == end:
                return self._batch(rows, self.bank.logits(output.last_hidden_state[:, -1], at))
            if upto == self.shared:
                self._select([stems.index(point) for _, point in rows], self._read_alike(rows))
        return None

    def respan(self, kept: Sequence[int], n: int) -> None:
        """The same models in another span (`sipo.bank.policy.respanned`)."""
        if self.columns:
            self.cache.respan(kept, n)
        self.requests = [request.respanned(kept, n) for request in self.requests]

    def _rows(self) -> list[Row]:
        """What is computed: where the model mixes, each prompt once a point."""
        rows = _rows(self.requests)
        return list(dict.fromkeys(rows)) if self.bank.routes.mixes else rows

    def _read_alike(self, rows: Sequence[Row]) -> list[Hashable]:
        """Rows of the same prompt; of the same request where nobody shares a prompt."""
        return [prompt for prompt, _ in rows] if self.bank.routes.mixes else [*_owners(self.requests)]

    def _batch(self, computed: Sequence[Row], logits: Tensor) -> Batch:
        rows, layout = _rows(self.requests), self.layout
        once = len({each.prompt for each in self.requests}) < len(self.requests) and self.bank.routes.mixes
        if len(computed) < len(rows) or once:  # from here on each request goes its own way
            where = {row: index for index, row in enumerate(computed)}
            expand = self._select([where[row] for row in rows], _owners(self.requests))
            layout, logits = layout and layout.of(expand), logits[expand]
        so_far = torch.zeros(len(rows), device=self.bank.device)
        return Batch([each.mixture for each in self.requests], layout, self.columns, self.cache, logits, so_far)

    def _select(self, rows: Sequence[int], alike: Sequence[Hashable]) -> Tensor:
        chosen = torch.tensor(rows, device=self.bank.device)
        self.cache.select(chosen, alike)
        return chosen


def prefill(bank: Bank, requests: Sequence[Request], stem: Stem | None = None) -> Batch:
    """Read all prompts at once."""
    batch: Any = Reading(bank, requests, stem).advance()
    return batch


def tokens_of(requests: Sequence[Request]) -> int:
    """That are computed to read these prompts together, padding included, where the model mixes."""
    rows = list(dict.fromkeys(_rows(requests)))
    shared, longest = _shared(rows), max(len(prompt) for prompt, _ in rows)
    return shared * len({point for _, point in rows}) + (longest - shared) * len(rows)


def _rows(requests: Sequence[Request]) -> list[Row]:
    return [(request.prompt, point) for request in requests for point in request.mixture.points]


def _owners(requests: Sequence[Request]) -> list[int]:
    return [place for place, request in enumerate(requests) for _ in request.mixture.points]


def _points(rows: Sequence[Row]) -> list[Point]:
    return list(dict.fromkeys(point for _, point in rows))


def _shared(rows: Sequence[Row]) -> int:
    """How many first tokens all prompts have in common, but for the last one; none where that spares no point a row."""
    prompts = [prompt for prompt, _ in rows]
    if len({point for _, point in rows}) == len(rows):
        return 0
    return min(len(commonprefix(prompts)), min(map(len, prompts)) - 1)


def _padded(rests: Sequence[Sequence[int]], shared: int) -> tuple[Tensor, Layout | None]:
    """What follows `shared` tokens, padded on the left so that all rows go on from the same column.

    ids [rows, longest], and the layout of all columns, None where nothing is padded.
    """
    longest = max(map(len, rests))
    ids = torch.zeros(len(rests), longest, dtype=torch.long)
    segments = torch.zeros(len(rests), shared + longest, dtype=torch.long)
    positions = torch.arange(shared + longest).repeat(len(rests), 1)
    for row, rest in enumerate(rests):
        padding = longest - len(rest)
        ids[row, padding:] = torch.tensor(rest)
        segments[row, shared : shared + padding] = PADDING
        positions[row, shared:] = (positions[row, shared:] - padding).clamp_min(shared)
    return ids, Layout(positions, segments) if (segments == PADDING).any() else None
