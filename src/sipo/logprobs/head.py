"""log p of given tokens through an output head, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from sipo.bank.head import Head

CHUNK = 64
"""Positions whose logits exist at one time: few enough to stay in a processor's cache."""
GPU_CHUNK = 1024
"""The same on a GPU: enough to keep it busy."""


class _TokenLogprobs(torch.autograd.Function):
    """Where the head is frozen the gradient of log p(t | h) to h is known: with logits f(z), z = W h + b, it is
    f'(z_t) W_t - sum_v p_v f'(z_v) W_v, a row of d numbers.

    It is made in the forward while the chunk's probabilities are at hand; nothing of size V is kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        weight = head.weight
        logprobs, gradients = [], []
        chunk = GPU_CHUNK if hidden.is_cuda else CHUNK
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            scores = head.layer(h).float()
            slope = None
            if head.scale != 1:
                scores *= head.scale
            if head.cap is not None:
                scores.div_(head.cap).tanh_()
                slope = 1 - scores * scores if ctx.needs_input_grad[0] else None
                scores *= head.cap
            scores -= scores.amax(-1, keepdim=True)
            target = scores.gather(-1, t[:, None])
            total = scores.exp_().sum(-1, keepdim=True)  # in place: the logits are now unnormalised probabilities
            logprobs.append((target - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                chosen = weight[t] if slope is None else slope.gather(-1, t[:, None]) * weight[t]
                if slope is not None:
                    scores *= slope
                expected = (scores.to(weight.dtype) @ weight).float() / total
                gradients.append((head.scale * (chosen - expected)).to(weight.dtype))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(gradient.dtype), None, None


def _chosen(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    return -cross_entropy(head(hidden).float(), targets, reduction="none")


def token_logprobs(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """log softmax(head(hidden)) at `targets`, float32. hidden [L, d], targets [L] -> [L]."""
    hidden = hidden.to(head.weight.dtype)
    if head.weight.requires_grad:
        chunk = GPU_CHUNK if hidden.is_cuda else CHUNK
        pairs = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        return torch.cat([checkpoint(_chosen, h, head, t, use_reentrant=False) for h, t in pairs])
    return _TokenLogprobs.apply(hidden, head, targets)
