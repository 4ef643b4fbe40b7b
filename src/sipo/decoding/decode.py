"""Batched decoding from mixtures: many prompts, each at its own weight, in the same forwards.

A request is one prompt and one mixture; each point of its mixture is a row of the batch. What rows have in
common is computed once: the prefix that all prompts share (a system turn, in-context examples) once a point,
a prompt once for all requests that read it under the same point. Finished requests leave the batch.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import torch
from torch import Tensor
from transformers import DynamicCache

from sipo.bank import Bank
from sipo.config import Decoding
from sipo.decoding.cache import roomy_cache
from sipo.decoding.mixing import mix, mix_logits
from sipo.decoding.mixture import REVERSE_KL, Divergence, Mixture, slots
from sipo.decoding.sampling import next_tokens, uniforms

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
    """Answer every request, in order. The bank's mounted adapters span the requests' points; a response ends with
    any token of `stops`.

    `watch(request, token)` is told of every token as it is chosen. Equal, up to rounding, to decoding the
    requests one at a time. The mixtures of one call share a divergence.
    """
    (divergence,) = {request.mixture.divergence for request in requests}
    batch = _prefill(bank, requests)
    noise = uniforms([request.seed for request in requests], max_new_tokens)
    tokens: list[list[int]] = [[] for _ in requests]
    for step in range(max_new_tokens):
        scores = batch.scores(divergence)
        chosen = next_tokens(scores, noise[batch.live, step], decoding)
        for request, token in zip(batch.live, chosen.tolist(), strict=True):
            if not _ended(tokens[request], stops):
                tokens[request].append(token)
                if watch:
                    watch(request, token)
        running = [place for place, request in enumerate(batch.live) if not _ended(tokens[request], stops)]
        if not running or step + 1 == max_new_tokens:
            break
        if len(running) < COMPACT_BELOW * len(batch.live):
            batch, chosen = batch.keep(running), chosen[running]
        batch.advance(bank, chosen[batch.owner], divergence)
    return [Generated(tuple(each), _ended(each, stops)) for each in tokens]


def _ended(tokens: list[int], stops: Collection[int]) -> bool:
    return bool(tokens) and tokens[-1] in stops


class _Batch:
    """The rows in flight: each a point of a request with its cache, all those of a request together."""

    def __init__(
        self,
        live: list[int],
        mixtures: list[Mixture],
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache,
        logits: Tensor,
        so_far: Tensor,
    ) -> None:
        """`live` are the requests and `mixtures` theirs. mask [rows, past]; positions [rows] of the next token; logits
        [rows, V]; so_far [rows], the response's log-probability, is kept only where the divergence asks for it.
        """
        self.live, self.mixtures = live, mixtures
        self.mask, self.positions, self.cache, self.logits, self.so_far = mask, positions, cache, logits, so_far
        self.points = torch.tensor([point for mixture in mixtures for point in mixture.points])
        self.slots, self.weights = slots(mixtures, mask.device)
        owner = [place for place, mixture in enumerate(mixtures) for _ in mixture.points]
        self.owner = torch.tensor(owner, device=mask.device)  # [rows] index into live

    def scores(self, divergence: Divergence) -> Tensor:
        """[live, V]"""
        if divergence == REVERSE_KL:
            alike = self.slots.numel() == len(self.logits)  # then rows need no gathering
            logits = self.logits.unflatten(0, self.slots.shape) if alike else self.logits[self.slots]
            return mix_logits(logits, self.weights)
        logprobs = self.so_far[:, None] + self.logits.float().log_softmax(-1)
        return mix(logprobs[self.slots], self.weights, divergence)

    def advance(self, bank: Bank, tokens: Tensor, divergence: Divergence) -> None:
        """Feed each row its next token."""
        if divergence != REVERSE_KL:
            self.so_far = self.so_far + self.logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        output = bank.hidden_states(
            self.points,
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        self.logits = bank.head(output.last_hidden_state[:, -1])

    def keep(self, places: list[int]) -> "_Batch":
        """The batch with only the requests at these places in `live`."""
        kept = torch.zeros(len(self.live), dtype=torch.bool, device=self.owner.device)
        kept[places] = True
        rows = kept[self.owner].nonzero()[:, 0]
        self.cache.batch_select_indices(rows)
        return _Batch(
            [self.live[place] for place in places],
            [self.mixtures[place] for place in places],
            self.mask[rows],
            self.positions[rows],
            self.cache,
            self.logits[rows],
            self.so_far[rows],
        )


def _prefill(bank: Bank, requests: Sequence[Request]) -> _Batch:
    """Compute all prompts: the shared prefix once a point, then each distinct (prompt, point) once."""
    rows = [(request.prompt, point) for request in requests for point in request.mixture.points]
    distinct = list(dict.fromkeys(rows))
    points = list(dict.fromkeys(point for _, point in distinct))
    shared = len(commonprefix([request.prompt for request in requests]))
    shared = min(shared, min(len(request.prompt) for request in requests) - 1)
    device, cache = bank.device, roomy_cache(bank.model.config)
    if shared:
        prefix = torch.tensor([requests[0].prompt[:shared]] * len(points), device=device)
        bank.hidden_states(torch.tensor(points), input_ids=prefix, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.tensor([points.index(point) for _, point in distinct], device=device))

    rests = [prompt[shared:] for prompt, _ in distinct]
    longest = max(map(len, rests))
    ids = torch.zeros(len(rests), longest, dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, rest in enumerate(rests):  # on the left, so that all rows go on from the same column
        ids[row, longest - len(rest) :] = torch.tensor(rest)
        real[row, longest - len(rest) :] = 1
    mask = torch.cat([torch.ones(len(rests), shared, dtype=torch.long), real], dim=1).to(device)
    positions = (real.cumsum(-1) - 1).clamp_min(0) + shared
    output = bank.hidden_states(
        torch.tensor([point for _, point in distinct]),
        input_ids=ids.to(device),
        attention_mask=mask,
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
    )
    logits = bank.head(output.last_hidden_state[:, -1])

    where = {row: index for index, row in enumerate(distinct)}
    expand = torch.tensor([where[row] for row in rows], device=device)
    if len(distinct) < len(rows):
        cache.batch_select_indices(expand)
    return _Batch(
        list(range(len(requests))),
        [request.mixture for request in requests],
        mask[expand],
        positions[:, -1].to(device)[expand] + 1,
        cache,
        logits[expand],
        torch.zeros(len(rows), device=device),
    )
