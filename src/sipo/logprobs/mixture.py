"""log pi(y | x) under a mixture: what `decode` draws from at temperature 1, summed over the response."""

from collections.abc import Sequence

import torch

from sipo.bank import Bank
from sipo.decoding.mixing import mix
from sipo.decoding.mixture import Mixture
from sipo.finite import finite
from sipo.logprobs.head import CHUNK
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import under


@torch.no_grad()
def mixture_logprobs(bank: Bank, groups: Sequence[Group], mixture: Mixture) -> list[list[float]]:
    """One value for each response of each group, natural logarithm. The mixed distribution is renormalised at every
    token, so this goes response by response; a single point is cheaper by `sipo.logprobs.score`.
    """
    return [[_one(bank, Group(group.prompt, (y,)), mixture) for y in group.responses] for group in groups]


def _one(bank: Bank, group: Group, mixture: Mixture) -> float:
    k = len(mixture.points)
    packed = pack([group] * k, bank.device)
    points = torch.tensor(mixture.points)
    output = bank.hidden_states(points, layout=packed.layout, input_ids=packed.ids, use_cache=False)
    hidden = output.last_hidden_state.flatten(0, 1)[packed.predictors].unflatten(0, (k, -1))  # [K, L, d]
    targets = packed.targets.unflatten(0, (k, -1))[0]  # [L]
    weights = torch.tensor(mixture.weights, device=bank.device)
    before, total = torch.zeros(k, 1, device=bank.device), 0.0
    for h, t in zip(hidden.split(CHUNK, dim=1), targets.split(CHUNK), strict=True):
        each = bank.logits(h, points).float().log_softmax(-1)  # [K, C, V]
        chosen = each.gather(-1, t[None, :, None].expand(k, -1, 1))[..., 0]
        so_far = before + chosen.cumsum(-1)  # [K, C] log-probability of what precedes, and the token
        logprobs = (so_far - chosen)[..., None] + each
        mixed = mix(logprobs.transpose(0, 1), weights.expand(len(t), k), mixture.divergence)
        total += float(mixed.log_softmax(-1).gather(-1, t[:, None]).sum())
        before = so_far[:, -1:]
    finite(total, f"log pi(y | x) {under(bank, group, mixture.points[0])}")
    return total
