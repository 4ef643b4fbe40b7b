"""The mathematics of MOD: several policies' log-probabilities into one score a token (Shi et al. 2024).

pi(y) is proportional to pi_ref(y) (f')^-1( sum_i w_i f'(pi_i(y) / pi_ref(y)) ). But for reverse KL that depends on
the probability of the whole response so far, not of the token alone: l_i below is
log pi_i(y_<t | x) + log pi_i(y_t | x, y_<t).

Shapes: rows are (request, point) pairs; `owner` [rows] is each row's request, `weights` [rows] its share.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sipo.decoding.mixture import Divergence


def mix(logprobs: Tensor, weights: Tensor, owner: Tensor, requests: int, divergence: Divergence) -> Tensor:
    """Scores [requests, V] from l_i [rows, V]: log pi up to a constant of each request, not renormalised.

    | divergence      | score                                             |
    | --------------- | ------------------------------------------------- |
    | reverse KL      | sum_i w_i l_i                                     |
    | forward KL      | -logsumexp_i(log w_i - l_i)                       |
    | alpha           | -logsumexp_i(log w_i - alpha l_i) / alpha         |
    | Jensen-Shannon  | l_ref + log g - log(2 - g), g = prod_i (2 x_i / (1 + x_i))^w_i, x_i = exp(l_i - l_ref) |

    Jensen-Shannon takes the reference as each request's last row, with weight 0.
    """
    zeros = torch.zeros(requests, logprobs.shape[-1], device=logprobs.device, dtype=logprobs.dtype)
    shares = weights[:, None].to(logprobs.dtype)
    match divergence.kind:
        case "reverse-kl":
            return zeros.index_add(0, owner, shares * logprobs)
        case "forward-kl" | "alpha":
            terms = shares.log() - divergence.alpha * logprobs
            highest = torch.full_like(zeros, -torch.inf).scatter_reduce(0, _rows(owner, terms), terms, "amax")
            total = zeros.index_add(0, owner, (terms - highest[owner]).exp())
            return -(highest + total.log()) / divergence.alpha
        case "jensen-shannon":
            reference = logprobs[_last_rows(owner, requests)]
            # sum_i w_i log(x_i / (1 + x_i)) = log(g / 2); double, because it may be very close to 0
            half_g = -zeros.double().index_add(0, owner, shares * softplus((reference[owner] - logprobs).double()))
            return (reference + half_g - (-half_g.expm1()).log()).to(logprobs.dtype)


def mix_logits(logits: Tensor, weights: Tensor, owner: Tensor, requests: int) -> Tensor:
    """Reverse KL from one step's logits [rows, V]: scores, float32 [requests, V].

    What precedes a token and a policy's normaliser are constants of the request then, so neither is computed.
    """
    scores = torch.zeros(requests, logits.shape[-1], device=logits.device)
    return scores.index_add_(0, owner, logits * weights[:, None])


def _rows(owner: Tensor, like: Tensor) -> Tensor:
    return owner[:, None].expand_as(like)


def _last_rows(owner: Tensor, requests: int) -> Tensor:
    """[requests] index of each request's last row."""
    places = torch.arange(len(owner), device=owner.device)
    return torch.zeros(requests, dtype=torch.long, device=owner.device).scatter_reduce(0, owner, places, "amax")
