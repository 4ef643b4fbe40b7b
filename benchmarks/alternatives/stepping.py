"""The decoding loop that the alternatives share: N policies step, their log-probabilities are mixed, greedily."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

Tokens = tuple[int, ...]
Step = Callable[[Tensor], Tensor]
"""Feeds tokens [B, T] to every policy behind what it has seen; the last position's logits [K, B, V]."""


@torch.no_grad()
def mixed_greedily(
    step: Step, prompts: Sequence[Tokens], weights: Tensor, new_tokens: int, stops: Collection[int] = ()
) -> list[Tokens]:
    """Prompts of one length, weights [B, K]. The batch goes on until all its texts have ended."""
    fed = torch.tensor(prompts, device=weights.device)
    shares = weights.T[:, :, None]
    columns: list[list[int]] = []
    for _ in range(new_tokens):
        mixed = (shares * step(fed).float().log_softmax(-1)).sum(0)
        fed = mixed.argmax(-1, keepdim=True)
        columns.append(fed[:, 0].tolist())
        if all(_length(text, stops) is not None for text in zip(*columns, strict=True)):
            break
    return [tuple(text[: _length(text, stops)]) for text in zip(*columns, strict=True)]


def _length(text: Sequence[int], stops: Collection[int]) -> int | None:
    """Tokens up to the first stop; None where there is none."""
    return next((place for place, token in enumerate(text, start=1) if token in stops), None)
