"""log pi(y | x), summed over the response's tokens: the one number behind references, margins and rewards."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sipo.bank import Bank
from sipo.bank.policy import Point
from sipo.decoding import Mixture
from sipo.finite import finite
from sipo.logprobs.head import token_logprobs
from sipo.logprobs.packing import Group, Packed, pack, predicting_states


class ScoreRequest(NamedTuple):
    """log pi(response | prompt) under a mixture: what decoding draws from at temperature 1."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mixture: Mixture


def response_logprobs(bank: Bank, packed: Packed, points: Tensor, again: bool = False) -> Tensor:
    """Summed log-probabilities of every response in the batch, float32 [S], differentiable.

    `points` [groups, N]: the place in the mounted policies' span that scores each group. `again`: the same groups come
    many times.
    """
    at = points[packed.group.cpu()]
    hidden = predicting_states(bank, packed, at, again)
    each, row = hidden.new_zeros(len(hidden), dtype=torch.float32), packed.predictors // packed.ids.shape[1]
    for rows, head in bank.heads(at):
        if rows is None:
            each = token_logprobs(hidden, head, packed.targets)
        else:
            mine = torch.isin(row, rows)
            each[mine] = token_logprobs(hidden[mine], head, packed.targets[mine])
    return torch.zeros(len(packed.lengths), device=each.device).index_add(0, packed.owner, each)


@torch.no_grad()
def score_rows(bank: Bank, rows: Sequence[tuple[Group, Point]]) -> list[list[float]]:
    """log pi(y | x) of every response of each row's group under the row's point, in one batch.

    Raises SipoError for the first that is not finite.
    """
    packed = pack([group for group, _ in rows], bank.device, bank.routes.packs)
    logprobs = response_logprobs(bank, packed, torch.tensor([point for _, point in rows])).tolist()
    row_of = [row for row, (group, _) in enumerate(rows) for _ in group.responses]
    finite(logprobs, lambda place: f"log pi(y | x) {under(bank, *rows[row_of[place]])}")
    values = iter(logprobs)
    return [[next(values) for _ in group.responses] for group, _ in rows]


def under(bank: Bank, group: Group, point: Point) -> str:
    """Which model, and which prompt, for errors."""
    model = f"the adapters at ({', '.join(f'{share:g}' for share in point)})" if any(point) else "the model itself"
    start = bank.backbone.tokenizer.decode(list(group.prompt[-60:]))
    return f"under {model}, of a response to the prompt that ends {start[-60:]!r},"
