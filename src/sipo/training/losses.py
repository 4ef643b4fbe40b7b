"""The losses, as free functions on plain tensors.

Notation of SIPO, section 2: h(y) = log pi_theta(y | x) - log pi_ref(y | x), and for a pair of responses
D = h(y_1) - h(y_0). Logarithms are natural and summed over response tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_loss(
    logratio_difference: Tensor,
    signs: Tensor,
    weights: Tensor,
    beta: float,
    margin: Tensor | float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """sum_i w_i * -log sigmoid(p_i * (beta * D - m) / s), one value a pair [P]; smaller is better.

    logratio_difference: D [P]. signs: p [P, N], +1 where objective i prefers y_1, -1 where y_0, 0 where it has
    no preference (its term is then left out). weights: w [N] or [P, N], or several [K, 1, N] for losses [K, P].

    DPO is one objective with weight 1 (SIPO, Eq. 2); DPO LW has all objectives with the preference weight;
    MODPO has margin m = sum_{j != k} w_j (r_j(y_1) - r_j(y_0)) and scale s = w_k (Zhou et al. 2024).
    """
    logits = (beta * logratio_difference - margin) / scale
    losses = -logsigmoid(signs * logits[:, None])
    return (weights * signs.abs() * losses).sum(-1)


def normalised_nll(chosen_logprobs: Tensor, chosen_lengths: Tensor) -> Tensor:
    """-log pi_theta(y_c | x) / |y_c| of each chosen response [P] (SIPO, Eq. 8): by its own tokens, no padding."""
    return -chosen_logprobs / chosen_lengths


def implicit_rewards(policy_logprobs: Tensor, reference_logprobs: Tensor, beta: float) -> Tensor:
    """r(x, y) = beta * (log pi(y | x) - log pi_ref(y | x)); larger is better (SIPO, Eq. 6, with its reference)."""
    return beta * (policy_logprobs - reference_logprobs)


def accuracy(logratio_difference: Tensor, signs: Tensor) -> Tensor:
    """Share of the given preferences that D agrees with, a scalar from 0 to 1; the larger the better."""
    given = signs != 0
    return ((signs * logratio_difference[:, None] > 0) & given).sum() / given.sum().clamp_min(1)
