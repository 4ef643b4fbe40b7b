"""log p of given tokens through a frozen output head, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 64
"""Positions whose logits exist at one time: few enough to stay in a processor's cache."""
GPU_CHUNK = 1024
"""The same on a GPU: enough to keep it busy."""


class _TokenLogprobs(torch.autograd.Function):
    """The head is frozen, so the gradient of log p(t | h) to h is W_t - sum_v p_v W_v: a row of d numbers.

    It is made in the forward while the chunk's probabilities are at hand; nothing of size V is kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logprobs, gradients = [], []
        chunk = GPU_CHUNK if hidden.is_cuda else CHUNK
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            scores = (h @ weight.T).float()
            scores -= scores.amax(-1, keepdim=True)
            target = scores.gather(-1, t[:, None])
            total = scores.exp_().sum(-1, keepdim=True)  # in place: the logits are now unnormalised probabilities
            logprobs.append((target - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                expected = (scores.to(weight.dtype) @ weight).float() / total
                gradients.append((weight[t] - expected).to(weight.dtype))
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
