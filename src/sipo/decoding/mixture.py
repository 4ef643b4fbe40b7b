"""Mixtures: what a method decodes from at a preference weight, as points in the span of N adapters.

| method            | points      | weights of the points |
| ----------------- | ----------- | --------------------- |
| base              | 0           | 1                     |
| policy i          | e_i         | 1                     |
| DPO soup at w     | w           | 1                     |
| MOD at w          | e_1 .. e_N  | w                     |
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sipo.bank.policy import respanned


class Divergence(NamedTuple):
    """The f-divergence to the reference by whose rule a mixture is made (Shi et al. 2024; `sipo.decoding.mixing`)."""

    kind: Literal["reverse-kl", "forward-kl", "alpha", "jensen-shannon"]
    alpha: float = 1.0
    """Of the alpha family; 1 is forward KL, and towards 0 it becomes reverse KL."""


REVERSE_KL = Divergence("reverse-kl")
FORWARD_KL = Divergence("forward-kl")
JENSEN_SHANNON = Divergence("jensen-shannon")


@dataclass(frozen=True)
class Mixture:
    """K points in the span of N adapters, mixed with weights that sum to one.

    For Jensen-Shannon the last point is the reference, with weight 0.
    """

    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    divergence: Divergence = REVERSE_KL

    def respanned(self, kept: Sequence[int], n: int) -> "Mixture":
        """The same models in another span (`sipo.bank.policy.respanned`)."""
        return replace(self, points=tuple(respanned(point, kept, n) for point in self.points))


def base(n: int) -> Mixture:
    return Mixture(((0.0,) * n,), (1.0,))


def at_soup(weights: Sequence[float]) -> Mixture:
    """The soup at w: one model whose update is the weighted sum of the policies' updates."""
    return Mixture((tuple(weights),), (1.0,))


def at_mod(weights: Sequence[float], divergence: Divergence = REVERSE_KL) -> Mixture:
    """MOD at w (SIPO, Eq. 3; Shi et al. 2024). Policies without weight are not run; a corner is its policy."""
    used = [i for i, weight in enumerate(weights) if weight > 0]
    points = [tuple(float(i == j) for j in range(len(weights))) for i in used]
    shares = [weights[i] for i in used]
    if len(used) == 1:
        return Mixture(tuple(points), tuple(shares))
    if divergence == JENSEN_SHANNON:
        points.append((0.0,) * len(weights))
        shares.append(0.0)
    return Mixture(tuple(points), tuple(shares), divergence)


def embedded(mixture: Mixture, places: Sequence[int], n: int) -> Mixture:
    """The mixture in a span of n adapters in which its own are those at `places`."""

    def point(own: Sequence[float]) -> tuple[float, ...]:
        return tuple(sum((c for at, c in zip(places, own, strict=True) if at == place), 0.0) for place in range(n))

    return replace(mixture, points=tuple(map(point, mixture.points)))


def slots(mixtures: Sequence[Mixture], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of a batch that lists all points of all mixtures: each one's rows [B, K], and their weights [B, K].

    K is the most points of any; a mixture of fewer names its last row again, with weight 0.
    """
    most = max(len(mixture.points) for mixture in mixtures)
    rows, weights, start = [], [], 0
    for mixture in mixtures:
        k = len(mixture.points)
        rows.append([start + min(i, k - 1) for i in range(most)])
        weights.append([*mixture.weights, *[0.0] * (most - k)])
        start += k
    return torch.tensor(rows, device=device), torch.tensor(weights, device=device)
