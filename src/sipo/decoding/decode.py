"""Batched decoding from mixtures: many prompts, each at its own weight, in the same forwards.

A request is one prompt and one mixture; each point of its mixture is a row of the batch. What rows have in
common is computed once: the prefix that all prompts share (a system turn, in-context examples) once a point,
a prompt once for all requests that read it under the same point. Finished requests leave the batch.

A model for which that is not exact decodes prompts of one length together, and spares nothing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.cache import Cache
from sipo.bank.layout import PADDING, Layout
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import REVERSE_KL, Divergence, Mixture, slots
from sipo.decoding.sampling import BROKEN, next_tokens, uniforms
from sipo.finite import SMALLER, NotFiniteError
from sipo.settings import Decoding

COMPACT_BELOW = 0.75
"""The batch is rebuilt without its finished requests once fewer than this share of them is live."""


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    mixture: Mixture
    seed: int = 0
    """Of the request's own random stream; requests with equal seeds see equal noise."""


@dataclass(frozen=True)
class Generated:
    tokens: tuple[int, ...]
    """With the end token, if there was one."""
    finished: bool
    """False where the limit cut the response."""


@torch.inference_mode()
def decode(
    bank: Bank,
    requests: Sequence[Request],
    decoding: Decoding,
    max_new_tokens: int,
    stops: Collection[int],
    watch: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Answer every request, in order. The bank's mounted policies span the requests' points; a response ends with
    any token of `stops`.

    `watch(request, token)` is told of every token as it is chosen. Equal, up to rounding, to decoding the
    requests one at a time. Raises NotFiniteError for the first logits that are not finite.
    """
    if not bank.routes.mixes and len({len(request.prompt) for request in requests}) > 1:
        return _by_length(bank, requests, decoding, max_new_tokens, stops, watch)
    batch = prefill(bank, requests)
    noise = uniforms([request.seed for request in requests], max_new_tokens)
    tokens: list[list[int]] = [[] for _ in requests]
    for step in range(max_new_tokens):
        scores = batch.scores()
        chosen = next_tokens(scores, noise[batch.live, step], decoding)
        for request, token in zip(batch.live, chosen.tolist(), strict=True):
            if token == BROKEN:
                prompt = bank.backbone.tokenizer.decode(list(requests[request].prompt[-60:]))
                raise NotFiniteError(
                    f"no token can be chosen after {len(tokens[request])} tokens of an answer to the prompt that ends "
                    f"{prompt[-60:]!r}: the model's logits are not finite; {SMALLER}"
                )
            if not _ended(tokens[request], stops):
                tokens[request].append(token)
                if watch:
                    watch(request, token)
        running = [place for place, request in enumerate(batch.live) if not _ended(tokens[request], stops)]
        if not running or step + 1 == max_new_tokens:
            break
        if bank.routes.mixes and len(running) < COMPACT_BELOW * len(batch.live):
            batch, chosen = batch.keep(running), chosen[running]
        batch.advance(bank, chosen[batch.owner])
    return [Generated(tuple(each), _ended(each, stops)) for each in tokens]


def _by_length(
    bank: Bank,
    requests: Sequence[Request],
    decoding: Decoding,
    max_new_tokens: int,
    stops: Collection[int],
    watch: Callable[[int, int], None] | None,
) -> list[Generated]:
    done: dict[int, Generated] = {}
    for length in sorted({len(request.prompt) for request in requests}):
        places = [place for place, request in enumerate(requests) if len(request.prompt) == length]

        def told(request: int, token: int, places: list[int] = places) -> None:
            if watch:
                watch(places[request], token)

        part = decode(bank, [requests[place] for place in places], decoding, max_new_tokens, stops, told)
        done.update(zip(places, part, strict=True))
    return [done[place] for place in range(len(requests))]


def _ended(tokens: list[int], stops: Collection[int]) -> bool:
    return bool(tokens) and tokens[-1] in stops


class Batch:
    """The rows in flight: each a point of a request with its cache, all those of a request together."""

    def __init__(
        self,
        live: list[int],
        mixtures: list[Mixture],
        layout: Layout | None,
        cache: Cache,
        logits: Tensor,
        so_far: Tensor,
    ) -> None:
        """`live` are the requests and `mixtures` theirs. `layout` of the past, None where all rows are of one length;
        logits [rows, V]; so_far [rows], the response's log-probability, is kept only where a divergence asks for it.
        """
        self.live, self.mixtures = live, mixtures
        self.layout, self.cache, self.logits, self.so_far = layout, cache, logits, so_far
        self.points = torch.tensor([point for mixture in mixtures for point in mixture.points])
        self.slots, self.weights = slots(mixtures, logits.device)
        owner = [place for place, mixture in enumerate(mixtures) for _ in mixture.points]
        self.owner = torch.tensor(owner, device=logits.device)  # [rows] index into live
        self.mixed_by: dict[Divergence, list[int]] = {}
        """The places in live by divergence."""
        for place, mixture in enumerate(mixtures):
            self.mixed_by.setdefault(mixture.divergence, []).append(place)

    def scores(self) -> Tensor:
        """[live, V]"""
        if self.forgets:
            alike = self.slots.numel() == len(self.logits)  # then rows need no gathering
            logits = self.logits.unflatten(0, self.slots.shape) if alike else self.logits[self.slots]
            return mix_logits(logits, self.weights)
        logprobs = self.so_far[:, None] + self.logits.float().log_softmax(-1)
        scores = torch.empty(len(self.live), logprobs.shape[-1], device=logprobs.device)
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
        if self.layout is not None:
            self.layout = self.layout.with_next()
        output = bank.hidden_states(
            self.points, layout=self.layout, input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True
        )
        self.logits = bank.logits(output.last_hidden_state[:, -1], self.points)

    def keep(self, places: list[int]) -> "Batch":
        """The batch with only the requests at these places in `live`."""
        kept = torch.zeros(len(self.live), dtype=torch.bool, device=self.owner.device)
        kept[places] = True
        rows = kept[self.owner].nonzero()[:, 0]
        self.cache.select(rows)
        return Batch(
            [self.live[place] for place in places],
            [self.mixtures[place] for place in places],
            self.layout and self.layout.of(rows),
            self.cache,
            self.logits[rows],
            self.so_far[rows],
        )


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
        list(range(len(requests))),
        [request.mixture for request in requests],
        layout,
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
