"""The rows of requests that are decoded together: each a point of a request's mixture, with its cache."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.cache import Cache
from sipo.bank.layout import Layout
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import REVERSE_KL, Divergence, Mixture, slots


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    mixture: Mixture
    seed: int = 0
    """Of the request's own random stream; requests with equal seeds see equal noise."""

    def respanned(self, kept: Sequence[int], n: int) -> "Request":
        """The same in another span (`sipo.bank.policy.respanned`)."""
        return replace(self, mixture=self.mixture.respanned(kept, n))


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
        mixtures = [mixture.respanned(kept, n) for mixture in self.mixtures]
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
