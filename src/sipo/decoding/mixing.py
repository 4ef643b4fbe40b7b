"""The mathematics of MOD: several policies' log-probabilities into one score a token (Shi et al. 2024).

The authors' rule is pi(y) proportional to pi_ref(y) (f')^-1( sum_i w_i f'(pi_i(y) / pi_ref(y)) ). It maximises the
weighted rewards less the divergence for reverse KL alone. For the others the optimum has its normaliser inside (f')^-1,
which the rule drops: over one token of random policies it is .05 to .14 of total variation from the optimum.

That is said of whole responses. Here each token is drawn by the rule's value for the response so far, normalised over
the vocabulary: what the rule gives to all that may follow a token is not known, and left out.

But for reverse KL the rule depends on the probability of the whole response so far, not of the token alone: l_i below
is log pi_i(y_<t | x) + log pi_i(y_t | x, y_<t).

Shapes: B requests of K points each over a vocabulary of V tokens. A request with fewer points names its last one again,
with weight 0.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sipo.decoding.mixture import Divergence

CHUNK = 8
"""Requests whose logits are widened at one time: few enough to stay in a processor's cache."""


def mix(logprobs: Tensor, weights: Tensor, divergence: Divergence) -> Tensor:
    """Scores [B, V] from l_i [B, K, V] and w_i [B, K]: log pi up to a constant of each request, not renormalised.

    | divergence      | score                                             |
    | --------------- | ------------------------------------------------- |
    | reverse KL      | sum_i w_i l_i                                     |
    | forward KL      | -logsumexp_i(log w_i - l_i)                       |
    | alpha           | -logsumexp_i(log w_i - alpha l_i) / alpha         |
    | Jensen-Shannon  | l_ref + log g - log(2 - g), g = prod_i (2 x_i / (1 + x_i))^w_i, x_i = exp(l_i - l_ref) |

    Jensen-Shannon takes the reference as each request's last point, with weight 0.
    """
    shares = weights[..., None].to(logprobs.dtype)
    match divergence.kind:
        case "reverse-kl":
            return (shares * logprobs).sum(1)
        case "forward-kl" | "alpha":
            return -(shares.log() - divergence.alpha * logprobs).logsumexp(1) / divergence.alpha
        case "jensen-shannon":
            reference = logprobs[:, -1:]
            # sum_i w_i log(x_i / (1 + x_i)) = log(g / 2); double, because it may be very close to 0
            half_g = -(shares * softplus((reference - logprobs).double())).sum(1)
            return (reference[:, 0] + half_g - (-half_g.expm1()).log()).to(logprobs.dtype)


def mix_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """Reverse KL from one step's logits [B, K, V] and weights [B, K]: scores, float32 [B, V].

    What precedes a token and a policy's normaliser are constants of the request then, so neither is computed.
    """
    scores = torch.empty(len(logits), 1, logits.shape[-1], device=logits.device)
    chunk = len(logits) if logits.is_cuda else CHUNK
    for score, share, each in zip(scores.split(chunk), weights.split(chunk), logits.split(chunk), strict=True):
        torch.bmm(share[:, None].float(), each.float(), out=score)
    return scores[:, 0]
