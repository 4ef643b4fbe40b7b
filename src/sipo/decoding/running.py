"""The running batch: requests join and leave it at any step, and none waits for another to end.

A request's text is its own: up to rounding it does not depend on who shares the batch, and its random stream is that of
its seed. Where a model cannot pad, or its cache cannot be joined, the requests that came together (and, for the former,
have prompts of one length) are a batch of their own, and a step is one of each batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.decoding.batch import Batch, Request, prefill
from sipo.decoding.sampling import BROKEN, next_tokens, uniforms
from sipo.settings import Decoding

COMPACT_BELOW = 0.75
"""A batch is rebuilt without its finished requests once fewer than this share of them is live."""


@dataclass(frozen=True)
class Chance:
    """How likely a token was, under the request's mixture at temperature 1: natural logarithms."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...]
    """Tokens and theirs, the likeliest first."""


@dataclass(eq=False)
class Answer:
    """What is written for a request, as far as it has come."""

    request: Request
    decoding: Decoding
    limit: int
    """Tokens at most."""
    likeliest: int | None = None
    """Keep each token's chance, and those of so many likeliest ones; None keeps none."""
    tokens: list[int] = field(default_factory=list)
    """With the end token, if there was one."""
    chances: list[Chance] = field(default_factory=list)
    ended: bool = False
    """By an end token."""
    broken: bool = False
    """By logits that are not finite."""
    left: bool = False
    """By whoever asked."""

    @property
    def over(self) -> bool:
        return self.ended or self.broken or self.left or len(self.tokens) >= self.limit

    @cached_property
    def noise(self) -> list[float]:
        """A number for each token, of the request's own stream."""
        return uniforms([self.request.seed], self.limit)[0].tolist()


Part = tuple[Batch, list[Answer]]
"""Requests that are computed together, and what is written for them."""


class Running:
    """`bank` keeps policies mounted that span all requests' points, until `respan`; an answer ends with any token of
    `stops`.
    """

    def __init__(self, bank: Bank, stops: Collection[int]) -> None:
        self.bank, self.stops = bank, stops
        self._parts: list[Part] = []

    def __len__(self) -> int:
        """Answers in the making."""
        return sum(not answer.over for answer in self.held)

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> None:
        """Read their prompts; the next step gives each its first token."""
        mixes = self.bank.routes.mixes
        together: dict[int, list[Answer]] = {}
        for answer in answers:
            together.setdefault(0 if mixes else len(answer.request.prompt), []).append(answer)
        for group in together.values():
            part: Part = (prefill(self.bank, [answer.request for answer in group]), group)
            if mixes and self._parts and part[0].cache.joins:
                part = self._joined(self._parts.pop(), part)
            self._parts.append(part)

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Give each its next token; those that were given one, or are broken for want of it. Those over are let go."""
        told: list[Answer] = []
        parts: list[Part] = []
        for batch, answers in self._parts:
            scores = batch.scores()
            chosen = _chosen(scores, answers)
            told += self._tell(scores, chosen.tolist(), answers)
            live = [place for place, answer in enumerate(answers) if not answer.over]
            if not live:
                continue
            if self.bank.routes.mixes and len(live) < COMPACT_BELOW * len(answers):
                batch, answers, chosen = batch.keep(live), [answers[place] for place in live], chosen[live]
            batch.advance(self.bank, chosen[batch.owner].clamp_min(0))
            parts.append((batch, answers))
        self._parts = parts
        return told

    @property
    def held(self) -> list[Answer]:
        """Those in the making, and those over whose rows are still there: their policies must stay mounted."""
        return [answer for _, answers in self._parts for answer in answers]

    def respan(self, kept: Sequence[int], n: int) -> None:
        """The bank has n policies mounted now: those `kept` of the ones before, by their places, then new ones."""
        self._parts = [(batch.respanned(kept, n), answers) for batch, answers in self._parts]

    def _joined(self, part: Part, other: Part) -> Part:
        batch, answers = part
        live = [place for place, answer in enumerate(answers) if not answer.over]
        if not live:
            return other
        if len(live) < len(answers):
            batch, answers = batch.keep(live), [answers[place] for place in live]
        return batch.joined(other[0]), [*answers, *other[1]]

    def _tell(self, scores: Tensor, chosen: Sequence[int], answers: Sequence[Answer]) -> list[Answer]:
        told = []
        for place, (answer, token) in enumerate(zip(answers, chosen, strict=True)):
            if answer.over:
                continue
            told.append(answer)
            if token == BROKEN:
                answer.broken = True
                continue
            answer.tokens.append(token)
            answer.ended = _ended(answer.tokens, self.stops)
            if answer.likeliest is not None:
                answer.chances.append(_chance(scores[place], token, answer.likeliest))
        return told


def _ended(tokens: list[int], stops: Collection[int]) -> bool:
    return bool(tokens) and tokens[-1] in stops


def _chosen(scores: Tensor, answers: Sequence[Answer]) -> Tensor:
    """The next token of each [requests] from scores [requests, V], by its own settings."""
    alike: dict[Decoding, list[int]] = {}
    for place, answer in enumerate(answers):
        alike.setdefault(answer.decoding, []).append(place)
    chosen = torch.empty(len(answers), dtype=torch.long, device=scores.device)
    for decoding, places in alike.items():
        mine = scores if len(alike) == 1 else scores[places]
        chosen[places] = next_tokens(mine, _noise(decoding, [answers[place] for place in places]), decoding)
    return chosen


def _noise(decoding: Decoding, answers: Sequence[Answer]) -> Tensor:
    """[requests]; greedy decoding needs none."""
    if decoding.temperature == 0:
        return torch.zeros(len(answers), dtype=torch.float64)
    at = [answer.noise[min(len(answer.tokens), answer.limit - 1)] for answer in answers]
    return torch.tensor(at, dtype=torch.float64)


def _chance(scores: Tensor, token: int, likeliest: int) -> Chance:
    logprobs = scores.float().log_softmax(-1)
    best = logprobs.topk(min(likeliest, len(logprobs)))
    return Chance(float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
