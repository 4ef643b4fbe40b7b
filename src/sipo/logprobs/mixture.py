"""log pi(y | x) under mixtures: what `decode` draws from at temperature 1, summed over the response."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.decoding.mixing import mix
from sipo.decoding.mixture import Mixture
from sipo.finite import finite
from sipo.logprobs.head import CHUNK
from sipo.logprobs.packing import Group, pack, predicting_states
from sipo.logprobs.score import under


@torch.no_grad()
def mixture_logprobs(bank: Bank, group: Group, mixtures: Sequence[Mixture]) -> list[list[float]]:
    """By mixture, one value for each response of the group, natural logarithm.

    Mixtures at many weights are mostly of the same few points: each of these goes through the model once for them all,
    and the distribution is mixed and renormalised at every token. A single point is cheaper by `sipo.logprobs.score`.
    """
    points = list(dict.fromkeys(point for mixture in mixtures for point in mixture.points))
    k, points_K_N = len(points), torch.tensor(points)
    packed = pack([group] * k, bank.device, bank.routes.packs)
    at = points_K_N[packed.group.cpu()]
    hidden_K_L_d = predicting_states(bank, packed, at).unflatten(0, (k, -1))
    targets_L = packed.targets.unflatten(0, (k, -1))[0]
    used = [[points.index(point) for point in mixture.points] for mixture in mixtures]
    found: list[list[float]] = [[] for _ in mixtures]
    lengths = [len(response) for response in group.responses]
    for hidden, targets in zip(hidden_K_L_d.split(lengths, dim=1), targets_L.split(lengths), strict=True):
        totals = [0.0] * len(mixtures)
        before = torch.zeros(k, 1, device=bank.device)
        for h, t in zip(hidden.split(CHUNK, dim=1), targets.split(CHUNK), strict=True):
            each = bank.logits(h, points_K_N).float().log_softmax(-1)  # [K, C, V]
            chosen = each.gather(-1, t[None, :, None].expand(k, -1, 1))[..., 0]
            so_far = before + chosen.cumsum(-1)  # [K, C] log-probability of what precedes, and the token
            each += (so_far - chosen)[..., None]
            for m, mixture in enumerate(mixtures):
                totals[m] += _chosen(each[used[m]], mixture, t)
            before = so_far[:, -1:]
        for mine, total in zip(found, totals, strict=True):
            mine.append(total)
    flat = [total for mine in found for total in mine]
    finite(flat, lambda i: f"log pi(y | x) {under(bank, group, mixtures[i // len(lengths)].points[0])}")
    return found


def _chosen(logprobs_K_C_V: Tensor, mixture: Mixture, targets_C: Tensor) -> float:
    """The targets' log-probabilities under the mixture, summed."""
    weights = torch.tensor(mixture.weights, device=logprobs_K_C_V.device)
    scores = mix(logprobs_K_C_V.transpose(0, 1), weights.expand(len(targets_C), -1), mixture.divergence)
    return float(scores.log_softmax(-1).gather(-1, targets_C[:, None]).sum())
