"""Choosing the next token. Each request draws from its own stream, so its batch does not change its text."""

import hashlib

import torch
from torch import Tensor

from sipo.settings import Decoding

BROKEN = -1
"""No token: a number that was not finite has come in."""


def seed_of(*parts: object) -> int:
    """A seed that depends on nothing but `parts`: the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def uniforms(seeds: list[int], steps: int) -> Tensor:
    """[requests, steps] numbers in [0, 1): request b's are those of its own seed, whoever shares the batch."""
    return torch.stack(
        [torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )


def next_tokens(scores: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """The next token of each request [B]: the best one, or the one at quantile `uniform` [B] of its distribution.

    It is BROKEN where the request's scores make no distribution, for a NaN or infinity among them.

    scores [B, V]: log-probabilities up to a constant. Order of the cuts: temperature, top_k, top_p.
    """
    if decoding.temperature == 0:
        best = scores.max(-1)  # three times as fast as argmax on a CPU, and NaN is the largest
        return best.indices.where(best.values.isfinite(), BROKEN)
    scores = scores / decoding.temperature
    if decoding.top_k or decoding.top_p < 1:
        k = min(decoding.top_k or scores.shape[-1], scores.shape[-1])
        scores, tokens = scores.topk(k, dim=-1)
    else:
        tokens = None
    probabilities = scores.double().softmax(-1)
    if decoding.top_p < 1:  # sorted by topk: keep until the mass before a token reaches top_p
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= decoding.top_p, 0)
    cumulative = probabilities.cumsum(-1)
    place = torch.searchsorted(cumulative, uniform.to(scores.device)[:, None] * cumulative[:, -1:], right=True)
    place = place.clamp_max(scores.shape[-1] - 1)
    chosen = (place if tokens is None else tokens.gather(-1, place))[:, 0]
    return chosen.where(cumulative[:, -1].isfinite(), BROKEN)
