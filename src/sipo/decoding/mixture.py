"""Mixtures: what a method decodes from at a preference weight, as points in the span of N adapters.

| method            | points      | weights of the points |
| ----------------- | ----------- | --------------------- |
| base              | 0           | 1                     |
| policy i          | e_i         | 1                     |
| DPO soup at w     | w           | 1                     |
| MOD at w          | e_1 .. e_N  | w                     |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """K points in the span of N adapters, whose log-probabilities are mixed with weights that sum to one."""

    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


def base(n: int) -> Mixture:
    return Mixture(((0.0,) * n,), (1.0,))


def at_soup(weights: Sequence[float]) -> Mixture:
    """The soup at w: one model whose update is the weighted sum of the policies' updates."""
    return Mixture((tuple(weights),), (1.0,))


def at_mod(weights: Sequence[float]) -> Mixture:
    """MOD at w (SIPO, Eq. 3; Shi et al. 2024, reverse KL). Policies without weight are not run."""
    used = [i for i, weight in enumerate(weights) if weight > 0]
    corners = tuple(tuple(float(i == j) for j in range(len(weights))) for i in used)
    return Mixture(corners, tuple(weights[i] for i in used))


def mix_logits(logits: Tensor, weights: Tensor, owner: Tensor, requests: int) -> Tensor:
    """sum_k w_k log softmax(logits_k) of each request, float32 [requests, V]; not renormalised.

    logits [rows, V]; `weights` [rows] and `owner` [rows] give each row's weight and its request. Mixing
    log-probabilities, not logits, makes the result blind to a constant added to a policy's logits.
    """
    logprobs = logits.float().log_softmax(-1)
    mixed = torch.zeros(requests, logits.shape[-1], device=logits.device)
    return mixed.index_add_(0, owner, logprobs.mul_(weights[:, None]))
