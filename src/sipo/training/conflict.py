"""One direction out of several objectives' gradients: the weighted sum, RACO, CAGrad, MGDA.

g_i is the gradient of objective i's loss over all trained parameters, w the preference weight, g0 = sum_i w_i g_i.
Every rule gives a combination sum_i a_i g_i whose a depends on the inner products g_i . g_j alone, so N gradients of
any size become an N x N problem.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Array = NDArray[np.float64]
Rule = Literal["sum", "raco", "cagrad", "mgda"]
NO_LENGTH = 1e-4
"""A vector shorter than this share of the gradients' root mean square is rounding, and has no direction."""


Gradient = Sequence[Tensor | None]
"""A tensor for every parameter; None, as torch has it, where a loss does not depend on the parameter."""


def direction(gradients: Sequence[Gradient], weights: Sequence[float], rule: Rule, c: float) -> list[Tensor | None]:
    """sum_i a_i g_i of N gradients, with the coefficients of `combine`."""
    a = combine(gram(gradients), np.asarray(weights, dtype=float), rule, c).tolist()
    return [torch.tensordot(g.new_tensor(a), g, 1) if g is not None else None for g in _stacked(gradients)]


def gram(gradients: Sequence[Gradient]) -> Array:
    """g_i . g_j [N, N] of N gradients, in double precision."""
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for parts in _stacked(gradients):
        if parts is not None:
            flat = parts.flatten(1).double()
            total += (flat @ flat.T).cpu()
    return np.asarray(total.numpy())


def _stacked(gradients: Sequence[Gradient]) -> Iterator[Tensor | None]:
    """All gradients' parts [N, ...] of each parameter in turn."""
    for parts in zip(*gradients, strict=True):
        given = next((part for part in parts if part is not None), None)
        if given is None:
            yield None
        else:
            yield torch.stack([torch.zeros_like(given) if part is None else part for part in parts])


def combine(gram_N_N: Array, weights_N: Array, rule: Rule, c: float = 0.4) -> Array:
    """a [N] of the direction sum_i a_i g_i to descend along, from the gradients' inner products and the weights.

    | rule   | direction                                                                                  |
    | ------ | ------------------------------------------------------------------------------------------ |
    | sum    | g0                                                                                         |
    | cagrad | g0 + c |g0| G_p / |G_p|, p = argmin over the simplex of G_p . g0 + c |g0| |G_p|            |
    | raco   | the same with G of min(p, w) in place of G_p, so that no objective pulls above its weight  |
    | mgda   | the shortest vector of the gradients' convex hull, whatever the weights                    |

    G_p is sum_i p_i g_i; where it is zero there is no correction. `c`, from 0 to below 1, bounds how far cagrad and
    raco leave g0. Sources: CAGrad (Liu et al. 2021), RACO (Chen et al. 2026, Algorithm 1), MGDA (Desideri 2012).

    A zero gradient takes no part: its objective prefers nothing here. Were it one of the objectives that no step may
    neglect, mgda would not step at all.
    """
    sizes = np.diagonal(gram_N_N)
    scale = float(sizes.mean())
    if rule == "sum" or scale == 0 or not np.isfinite(scale):  # what is not finite goes on into the sum, and is found
        return weights_N.copy()
    given = sizes > NO_LENGTH**2 * scale
    products = gram_N_N[np.ix_(given, given)]
    coefficients = np.zeros_like(weights_N)  # the same whatever the gradients' unit
    coefficients[given] = _combined(products / np.diagonal(products).mean(), weights_N[given], rule, c)
    return coefficients


def _combined(gram_N_N: Array, weights_N: Array, rule: Rule, c: float) -> Array:
    if rule == "mgda":
        return over_simplex(gram_N_N, np.zeros_like(weights_N), 1.0)
    towards = gram_N_N @ weights_N
    size = _length(gram_N_N, weights_N)
    p = over_simplex(gram_N_N, towards, c * size)
    if rule == "raco":
        p = np.minimum(p, weights_N)
    length = _length(gram_N_N, p)
    return weights_N + c * size / length * p if length > NO_LENGTH else weights_N


def _length(gram_N_N: Array, a_N: Array) -> float:
    """|sum_i a_i g_i|"""
    return float(np.sqrt(max(float(a_N @ gram_N_N @ a_N), 0.0)))


def over_simplex(gram_N_N: Array, linear_N: Array, c: float) -> Array:
    """argmin over the simplex of p . linear + c |G_p| [N], which is convex; |G_p|^2 = p . gram . p."""
    n = len(gram_N_N)

    def objective(p: Array) -> tuple[float, Array]:
        product = gram_N_N @ p
        length = np.sqrt(max(float(p @ product), 0.0) + 1e-12)  # smooth where G_p is zero
        return float(p @ linear_N + c * length), np.asarray(linear_N + c * product / length)

    found = minimize(
        objective,
        np.full(n, 1 / n),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * n,
        constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1.0, "jac": lambda p: np.ones(n)}],
        options={"ftol": 1e-12, "maxiter": 200},
    )
    p = np.clip(found.x, 0.0, None)
    return np.asarray(p / p.sum())
