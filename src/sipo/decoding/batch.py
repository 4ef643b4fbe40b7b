"""The rows of requests that are decoded together: each a point of a request's mixture, with its cache.

What rows have in common is computed once: the prefix that all prompts share (a system turn, in-context examples) once a
point, a prompt once for all requests that read it under the same point. A model for which that is not exact decodes
prompts of one length together, and spares nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.cache import Cache
from sipo.bank.layout import PADDING, Layout
from sipo.bank.policy import respanned
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import REVERSE_KL, Divergence, Mixture, slots


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    mixture: Mixture
    seed: int = 0
    """Of the request's own random stream; requests with equal seeds see equal noise."""


class Batch:
    """The rows in flight: each a point of a request with its cache, all those of a request together."""

    def __init__(
        self,
        mixtures: list[Mixture],
        layout: Layout | None,
        columns: int,
        cache: Cache,
        logits: Tensor,
        so_far: Tensor,
    ) -> None:
        """`mixtures` are the requests'. `layout` of the past, None where all rows are of one length, `columns`; logits
        [rows, V]; so_far [rows], the response's log-probability, is kept only where a divergence asks for it.
        """
        self.mixtures, self.layout, self.columns, self.cache = mixtures, layout, columns, cache
        self.logits, self.so_far = logits, so_far
        self.points = torch.tensor([point for mixture in mixtures for point in mixture.points])
        self.slots, self.weights = slots(mixtures, logits.device)
        owner = [place for place, mixture in enumerate(mixtures) for _ in mixture.points]
        self.owner = torch.tensor(owner, device=logits.device)  # [rows] index into mixtures
        self.mixed_by: dict[Divergence, list[int]] = {}
        """The places in mixtures by divergence."""
        for place, mixture in enumerate(mixtures):
            self.mixed_by.setdefault(mixture.divergence, []).append(place)

    def __len__(self) -> int:
        """Requests."""
        return len(self.mixtures)

    def scores(self) -> Tensor:
        """[requests, V]"""
        if self.forgets:
            alike = self.slots.numel() == len(self.logits)  # then rows need no gathering
            logits = self.logits.unflatten(0, self.slots.shape) if alike else self.logits[self.slots]
            return mix_logits(logits, self.weights)
        logprobs = self.so_far[:, None] + self.logits.float().log_softmax(-1)
        scores = torch.empty(len(self), logprobs.shape[-1], device=logprobs.device)
        for divergence, places in self.mixed_by.items():
            rows, weights = self.slots[places], self.weights[places]
            if divergence == REVERSE_KL:
                scores[places] = mix_logits(self.logits[rows], weights)
            else:
                scores[places] = mix(logprobs[rows], weights, divergence)
        return scores

    @property
    def forgets(self) -> bool:
        """Whether scores depend on the last logits alone, and not on the probability of the response so far."""
        return self.mixed_by.keys() == {REVERSE_KL}

    def advance(self, bank: Bank, tokens: Tensor) -> None:
        """Feed each row its next token."""
        if not self.forgets:
            self.so_far = self.so_far + self.logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        self.columns += 1
        if self.layout is not None:
            self.layout = self.layout.with_next()
        output = bank.hidden_states(
            self.points, layout=self.layout, input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True
        )
        self.logits = bank.logits(output.last_hidden_state[:, -1], self.points)

    def keep(self, places: Sequence[int]) -> "Batch":
        """The batch with only the requests at these places."""
        kept = torch.zeros(len(self), dtype=torch.bool, device=self.owner.device)
        kept[list(places)] = True
        rows = kept[self.owner].nonzero()[:, 0]
        self.cache.select(rows)
        return Batch(
            [self.mixtures[place] for place in places],
            self.layout and self.layout.of(rows),
            self.columns,
            self.cache,
            self.logits[rows],
            self.so_far[rows],
        ).without_padding()

    def joined(self, other: "Batch") -> "Batch":
        """The requests of both, these first. Their caches can (`Cache.joins`), and are then one."""
        columns = max(self.columns, other.columns)
        mine, theirs = self.shifted(columns - self.columns), other.shifted(columns - other.columns)
        layout = None
        if mine.layout is not None or theirs.layout is not None:
            layout = mine._layout().with_rows(theirs._layout())
        mine.cache.join(theirs.cache)
        return Batch(
            [*self.mixtures, *other.mixtures],
            layout,
            columns,
            mine.cache,
            torch.cat([self.logits, other.logits]),
            torch.cat([self.so_far, other.so_far]),
        )

    def shifted(self, columns: int) -> "Batch":
        """With so many columns of padding before all others; or, below zero, without the first ones."""
        if not columns:
            return self
        self.cache.shift(columns)
        layout = self._layout().shifted(columns)
        return Batch(self.mixtures, layout, self.columns + columns, self.cache, self.logits, self.so_far)

    def respanned(self, kept: Sequence[int], n: int) -> "Batch":
        """The same models in another span (`sipo.bank.policy.respanned`)."""
        self.cache.respan(kept, n)
        mixtures = [
            replace(mixture, points=tuple(respanned(point, kept, n) for point in mixture.points))
            for mixture in self.mixtures
        ]
        return Batch(mixtures, self.layout, self.columns, self.cache, self.logits, self.so_far)

    def without_padding(self) -> "Batch":
        """Without the columns at the left that are padding in every row: a long request has left."""
        if self.layout is None or not self.cache.joins:
            return self
        cut = self.shifted(-int(self.layout.first.min()))
        if cut.layout is not None and not cut.layout.padded:
            cut.layout = None
        return cut

    def _layout(self) -> Layout:
        return self.layout or Layout.even(len(self.owner), self.columns, self.owner.device)


def prefill(bank: Bank, requests: Sequence[Request]) -> Batch:
    """Compute all prompts: the shared prefix once a point, then each distinct (prompt, point) once."""
    rows = [(request.prompt, point) for request in requests for point in request.mixture.points]
    distinct, shared = rows, 0
    if bank.routes.mixes:
        distinct = list(dict.fromkeys(rows))
        shared = len(commonprefix([request.prompt for request in requests]))
        shared = min(shared, min(len(request.prompt) for request in requests) - 1)
    device, cache = bank.device, bank.cache()
    if shared:
        points = list(dict.fromkeys(point for _, point in distinct))
        prefix = torch.tensor([requests[0].prompt[:shared]] * len(points), device=device)
        bank.hidden_states(torch.tensor(points), input_ids=prefix, past_key_values=cache, use_cache=True)
        cache.select(torch.tensor([points.index(point) for _, point in distinct], device=device))

    rests = [prompt[shared:] for prompt, _ in distinct]
    ids, layout = _padded(rests, shared)
    layout = layout and layout.to(device)
    at = torch.tensor([point for _, point in distinct])
    output = bank.hidden_states(
        at,
        layout=layout,
        input_ids=ids.to(device),
        past_key_values=cache,
        use_cache=True,
    )
    logits = bank.logits(output.last_hidden_state[:, -1], at)

    if len(distinct) < len(rows):
        where = {row: index for index, row in enumerate(distinct)}
        expand = torch.tensor([where[row] for row in rows], device=device)
        cache.select(expand)
        layout, logits = layout and layout.of(expand), logits[expand]
    return Batch(
        [request.mixture for request in requests],
        layout,
        shared + ids.shape[1],
        cache,
        logits,
        torch.zeros(len(rows), device=device),
    )


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
