"""log p of given tokens through a frozen output head, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions whose logits exist at one time."""


class _TokenLogprobs(torch.autograd.Function):
    """The head is frozen, so the gradient of log p(t | h) to h is W_t - sum_v p_v W_v: a row of d numbers.

    It is made in the forward while the chunk's probabilities are at hand; nothing of size V is kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logprobs, gradients = [], []
        for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            scores = (h @ weight.T).float()
            total = scores.logsumexp(-1, keepdim=True)
            logprobs.append(scores.gather(-1, t[:, None])[:, 0] - total[:, 0])
            if ctx.needs_input_grad[0]:
                probabilities = (scores - total).exp_().to(weight.dtype)
                gradients.append(weight[t] - probabilities @ weight)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(gradient.dtype), None, None


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T) at `targets`, float32. hidden [L, d], weight [V, d], targets [L] -> [L]."""
    return _TokenLogprobs.apply(hidden, weight, targets)  # type: ignore[no-any-return,no-untyped-call]
