"""Judges fitted on labelled pairs that the policies have not seen: what a response is worth to each objective.

A policy's log-ratio ranks what the policies write, but rises on anything freshly sampled. A judge is linear in
several features of a response, and its weights are fitted on held-out pairs (Bradley-Terry with a ridge), so that
other policies' log-ratios, lengths and the reference can correct each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sipo.filters.contest import ORIGINALS, Array


def response_features(policies_R_N: Array, reference_R: Array, lengths_R: Array, names: Sequence[str]) -> Array:
    """[R, F]: what a judge sees of R responses, from their summed log-probabilities and lengths in tokens.

    `logratios` are h_i = log pi_i - log pi_ref, N columns; `logratios-per-token` h_i / |y|; `length` |y|;
    `reference-per-token` log pi_ref / |y|.
    """
    ratios = policies_R_N - reference_R[:, None]
    columns = {
        "logratios": ratios,
        "logratios-per-token": ratios / lengths_R[:, None],
        "length": lengths_R[:, None],
        "reference-per-token": (reference_R / lengths_R)[:, None],
    }
    return np.concatenate([columns[name] for name in names], axis=1)


def log_sigmoid(logits: Array) -> Array:
    from scipy.special import log_expit

    return np.asarray(log_expit(logits))


def soft_dominance(utilities_R_N: Array) -> Array:
    """a [C]: log of the probability, taken as independent, of beating both originals everywhere. Larger is better."""
    candidates, originals = utilities_R_N[ORIGINALS:], utilities_R_N[:ORIGINALS]
    return np.asarray(log_sigmoid(candidates[:, None] - originals[None]).sum(axis=(1, 2)))


def fit_bradley_terry(differences_P_F: Array, signs_P: Array, ridge: float) -> Array:
    """w [F] that minimises -sum log sigmoid(p w.d) + ridge / 2 |w|^2.

    differences: features of y_1 less those of y_0; signs: +1 where y_1 is preferred, -1 where y_0 is.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    signed = differences_P_F * signs_P[:, None]

    def loss(w: Array) -> tuple[float, Array]:
        logits = signed @ w
        return ridge / 2 * w @ w - log_sigmoid(logits).sum(), ridge * w - signed.T @ expit(-logits)

    found = minimize(loss, np.zeros(signed.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0})
    return np.asarray(found.x)


@dataclass(frozen=True)
class BradleyTerry:
    """One linear utility for each objective, over standardised features."""

    features: tuple[str, ...]
    mean_F: Array
    scale_F: Array
    weights_N_F: Array

    def utilities(self, features_R_F: Array) -> Array:
        """[R, N], larger is better; differences are logits of a preference."""
        return np.asarray((features_R_F - self.mean_F) / self.scale_F @ self.weights_N_F.T)

    def as_json(self) -> dict[str, Any]:
        return {
            "features": list(self.features),
            "mean": self.mean_F.tolist(),
            "scale": self.scale_F.tolist(),
            "weights": self.weights_N_F.tolist(),
        }


@dataclass(frozen=True)
class LabelledPairs:
    """P pairs of responses with the objectives' preferences between them."""

    features_P_2_F: Array
    signs_P_N: Array
    """+1 where objective i prefers the second response, -1 where the first, 0 for a tie or no label."""


def fit_utilities(pairs: LabelledPairs, names: Sequence[str], ridge: float) -> BradleyTerry:
    """The judge of all pairs. An objective without a single label gets zero weights."""
    flat = pairs.features_P_2_F.reshape(-1, pairs.features_P_2_F.shape[-1])
    mean, scale = flat.mean(axis=0), flat.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    differences = (pairs.features_P_2_F[:, 1] - pairs.features_P_2_F[:, 0]) / scale
    weights = []
    for signs in pairs.signs_P_N.T:
        given = signs != 0
        weights.append(fit_bradley_terry(differences[given], signs[given], ridge))
    return BradleyTerry(tuple(names), mean, scale, np.stack(weights))


def fit_own_scale(pairs: LabelledPairs, ridge: float) -> BradleyTerry:
    """A judge whose utility for objective i is a multiple of feature i alone: its own policy's log-ratio."""
    n = pairs.signs_P_N.shape[1]
    alone = [
        fit_utilities(LabelledPairs(pairs.features_P_2_F[..., [i]], pairs.signs_P_N[:, [i]]), ("logratios",), ridge)
        for i in range(n)
    ]
    mean, scale = (np.concatenate(parts) for parts in zip(*((j.mean_F, j.scale_F) for j in alone), strict=True))
    return BradleyTerry(("logratios",), mean, scale, np.diag([float(judge.weights_N_F[0, 0]) for judge in alone]))


def accuracy_of(judge: BradleyTerry, pairs: LabelledPairs) -> Array:
    """[N] share of the given preferences that the judge agrees with; NaN where there is none. Larger is better."""
    first, second = (judge.utilities(pairs.features_P_2_F[:, side]) for side in (0, 1))
    given = pairs.signs_P_N != 0
    right = ((second - first) * pairs.signs_P_N > 0) & given
    counts = given.sum(axis=0)
    return np.where(counts > 0, right.sum(axis=0) / np.maximum(counts, 1), np.nan)


def held_out_accuracy(pairs: LabelledPairs, folds_P: NDArray[np.intp], names: Sequence[str], ridge: float) -> Array:
    """[N] accuracy on each fold of a judge fitted on the others, over all pairs. Larger is better."""
    right = np.zeros(pairs.signs_P_N.shape[1])
    for fold in np.unique(folds_P):
        inside, outside = folds_P == fold, folds_P != fold
        judge = fit_utilities(LabelledPairs(pairs.features_P_2_F[outside], pairs.signs_P_N[outside]), names, ridge)
        tested = LabelledPairs(pairs.features_P_2_F[inside], pairs.signs_P_N[inside])
        right += np.nan_to_num(accuracy_of(judge, tested)) * (tested.signs_P_N != 0).sum(axis=0)
    counts = (pairs.signs_P_N != 0).sum(axis=0)
    return np.where(counts > 0, right / np.maximum(counts, 1), np.nan)
