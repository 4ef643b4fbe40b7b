"""log pi(y | x), summed over the response's tokens: the one number behind references, margins and rewards."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.logprobs.head import token_logprobs
from sipo.logprobs.packing import Group, Packed, pack

Point = tuple[float, ...]


def response_logprobs(bank: Bank, packed: Packed, points: Tensor) -> Tensor:
    """Summed log-probabilities of every response in the batch, float32 [S], differentiable.

    `points` [groups, N]: the place in the mounted adapters' span that scores each group.
    """
    output = bank.hidden_states(points[packed.group.cpu()], layout=packed.layout, input_ids=packed.ids, use_cache=False)
    hidden = output.last_hidden_state.flatten(0, 1)[packed.predictors]
    each = token_logprobs(hidden, bank.head, packed.targets)
    return torch.zeros(len(packed.lengths), device=each.device).index_add(0, packed.owner, each)


@torch.no_grad()
def score_rows(bank: Bank, rows: Sequence[tuple[Group, Point]]) -> list[list[float]]:
    """log pi(y | x) of every response of each row's group under the row's point, in one batch."""
    packed = pack([group for group, _ in rows], bank.device, bank.routes.packs)
    logprobs = response_logprobs(bank, packed, torch.tensor([point for _, point in rows]))
    return [part.tolist() for part in logprobs.split([len(group.responses) for group, _ in rows])]
