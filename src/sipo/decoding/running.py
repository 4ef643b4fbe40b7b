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
from sipo.decoding.batch import Batch, Request
from sipo.decoding.reading import Reading, Stem, prefill, tokens_of
from sipo.decoding.sampling import BROKEN, next_tokens, uniforms
from sipo.settings import Decoding

COMPACT_BELOW = 0.75
"""A batch is rebuilt without its finished requests once fewer than this share of them is live."""

RATHER_ALL = 1.5
"""Prompts are read together up to so many times the tokens that were allowed, if none is left then: few tokens take
nearly as long to read as some more, and whoever is read later is written for alone at the end.
"""


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

    @property
    def rows(self) -> int:
        return len(self.request.mixture.points)

    @cached_property
    def noise(self) -> list[float]:
        """A number for each token, of the request's own stream."""
        return uniforms([self.request.seed], self.limit)[0].tolist()


@dataclass
class Part:
    """Requests that are computed together, and what is written for them."""

    batch: Batch
    answers: list[Answer]
    chosen: Tensor
    """[requests]: each one's last token, which the model has not been fed yet."""

    def of(self, live: Sequence[int]) -> "Part":
        """Those at these places alone."""
        return Part(self.batch.keep(live), [self.answers[place] for place in live], self.chosen[live])

    @property
    def live(self) -> list[int]:
        """The places of those that are not over."""
        return [place for place, answer in enumerate(self.answers) if not answer.over]


class Running:
    """`bank` keeps policies mounted that span all requests' points, until `respan`; an answer ends with any token of
    `stops`. With a `stem` all prompts that ever join begin with it, and the points are its points.
    """

    def __init__(self, bank: Bank, stops: Collection[int], stem: Stem | None = None) -> None:
        self.bank, self.stops, self.stem = bank, stops, stem
        self._unread: list[Answer] = []
        self._long: tuple[Reading, list[Answer]] | None = None
        """What is read a portion at a time."""
        self._parts: list[Part] = []

    def __len__(self) -> int:
        """Answers in the making."""
        return sum(not answer.over for answer in self.held)

    def join(self, answers: Sequence[Answer]) -> None:
        """Have their prompts read."""
        self._unread += answers

    @torch.inference_mode()
    def read(self, most: int | None = None) -> list[Answer]:
        """Read the prompts of those that have joined, and give each that is read its first token: all of them, or
        about so many tokens (`RATHER_ALL`), of prompts that have no more alone, and again as many of the first one
        that has.

        Whatever is raised, those that were being read are let go.
        """
        told: list[Answer] = []
        self._unread = [answer for answer in self._unread if not answer.over]
        for group in self._groups(most):
            told += self._begun(prefill(self.bank, [answer.request for answer in group], self.stem), group)
        long, self._long = self._long or self._next_long(most), None
        if long is not None and not all(answer.over for answer in long[1]):
            batch = long[0].advance(most)
            if batch is None:
                self._long = long
            else:
                told += self._begun(batch, long[1])
        return told

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Give each whose prompt is read its next token; those that were given one, or are broken for want of it.
        Those over are let go, and whatever is raised, those of its part.
        """
        told: list[Answer] = []
        for _ in range(len(self._parts)):
            part = self._parts.pop(0)
            if not (live := part.live):
                continue
            if self.bank.routes.mixes and len(live) < COMPACT_BELOW * len(part.answers):
                part = part.of(live)
            part.batch.advance(self.bank, part.chosen[part.batch.owner].clamp_min(0))
            told += self._choose(part)
            self._parts.append(part)
        return told

    @property
    def writing(self) -> bool:
        """Is there somebody whose prompt is read?"""
        return any(part.live for part in self._parts)

    @property
    def rows(self) -> int:
        """Of those in the making: one for each point of a request's mixture."""
        return sum(answer.rows for answer in self.held if not answer.over)

    @property
    def joins(self) -> bool:
        """Do those that come go on in the same forwards as those that are here?"""
        return self.bank.routes.mixes and all(part.batch.cache.joins for part in self._parts)

    @property
    def held(self) -> list[Answer]:
        """Those in the making, and those over whose rows are still there: their policies must stay mounted."""
        read = [answer for part in self._parts for answer in part.answers]
        return [*self._unread, *(self._long[1] if self._long else ()), *read]

    def respan(self, kept: Sequence[int], n: int) -> None:
        """The bank has n policies mounted now: those `kept` of the ones before, by their places, then new ones."""
        for answer in self._unread:
            answer.request = answer.request.respanned(kept, n)
        if self._long:
            self._long[0].respan(kept, n)
        for part in self._parts:
            part.batch = part.batch.respanned(kept, n)

    def _groups(self, most: int | None) -> list[list[Answer]]:
        """Take away those whose prompts are read at once, each list together."""
        if self.bank.routes.mixes and most is not None:
            short = [answer for answer in self._unread if tokens_of([answer.request]) <= most]
            group: list[Answer] = []
            if short and tokens_of([each.request for each in short]) <= RATHER_ALL * most:
                group, short = short, []
            for answer in short:
                if tokens_of([each.request for each in (*group, answer)]) > most:
                    break
                group.append(answer)
            groups = [group]
        elif self.bank.routes.mixes:
            groups = [self._unread]
        else:
            lengths: dict[int, list[Answer]] = {}
            for answer in self._unread:
                lengths.setdefault(len(answer.request.prompt), []).append(answer)
            groups = list(lengths.values())
        taken = {answer for group in groups for answer in group}
        self._unread = [answer for answer in self._unread if answer not in taken]
        return [group for group in groups if group]

    def _next_long(self, most: int | None) -> tuple[Reading, list[Answer]] | None:
        """The first prompt of more tokens, for all that wait for it."""
        prompts = (each.request.prompt for each in self._unread if tokens_of([each.request]) > (most or 0))
        if (prompt := next(prompts, None)) is None:
            return None
        answers = [each for each in self._unread if each.request.prompt == prompt]
        self._unread = [each for each in self._unread if each.request.prompt != prompt]
        return Reading(self.bank, [each.request for each in answers]), answers

    def _begun(self, batch: Batch, answers: list[Answer]) -> list[Answer]:
        """Give those whose prompts are read their first tokens, and let them go on with the others."""
        part = Part(batch, answers, torch.empty(0))
        told = self._choose(part)
        if part.live:
            joins = self._parts and self.joins and batch.cache.joins
            self._parts.append(_joined(self._parts.pop(), part) if joins else part)
        return told

    def _choose(self, part: Part) -> list[Answer]:
        """The next token of each; those that were given one."""
        scores, told = part.batch.scores(), list[Answer]()
        part.chosen = _chosen(scores, part.answers)
        for place, (answer, token) in enumerate(zip(part.answers, part.chosen.tolist(), strict=True)):
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


def _joined(part: Part, other: Part) -> Part:
    """Those of both that are not over."""
    live = [each.of(each.live) if len(each.live) < len(each.answers) else each for each in (part, other) if each.live]
    if len(live) < 2:
        return live[0]
    (part, other), chosen = live, torch.cat([each.chosen for each in live])
    return Part(part.batch.joined(other.batch), [*part.answers, *other.answers], chosen)


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
