"""Judges fitted on labelled pairs that the policies have not seen: what a response is worth to each objective.

A policy's log-ratio ranks what the policies write, but rises on anything freshly sampled. A judge is linear in
several features of a response, and its weights are fitted on held-out pairs (Bradley-Terry with a ridge), so that
other policies' log-ratios, lengths and the reference can correct each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sipo.filters.contest import ORIGINALS, Array


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
    columns: Mapping[str, slice] = field(default_factory=dict)
    """Where each feature stands in F."""

    def seeing(self, names: Sequence[str]) -> "LabelledPairs":
        """The pairs with these features alone, in this order."""
        parts = {name: self.features_P_2_F[:, :, self.columns[name]] for name in names}
        return LabelledPairs(np.concatenate([*parts.values()], axis=2), self.signs_P_N, places(parts))

    def of(self, which_P: NDArray[Any]) -> "LabelledPairs":
        return replace(self, features_P_2_F=self.features_P_2_F[which_P], signs_P_N=self.signs_P_N[which_P])

    def about(self, objective: int) -> "LabelledPairs":
        """With the labels of one objective alone."""
        return replace(self, signs_P_N=self.signs_P_N[:, [objective]])


def places(parts: Mapping[str, Array]) -> dict[str, slice]:
    """Where the columns of each part stand once they are side by side."""
    ends = np.cumsum([part.shape[-1] for part in parts.values()]).tolist()
    return {name: slice(end - part.shape[-1], end) for (name, part), end in zip(parts.items(), ends, strict=True)}


def standard(pairs: LabelledPairs) -> tuple[Array, Array]:
    """Mean and standard deviation [F] over all responses; 1 for what is the same in all."""
    flat = pairs.features_P_2_F.reshape(-1, pairs.features_P_2_F.shape[-1])
    scale = flat.std(axis=0)
    return flat.mean(axis=0), np.where(scale > 0, scale, 1.0)


def fit_utilities(
    pairs: LabelledPairs, names: Sequence[str], ridge: float, reduced: Mapping[str, int] | None = None
) -> BradleyTerry:
    """The judge of all pairs. An objective without a single label gets zero weights.

    Of a feature in `reduced` the fit sees so many principal components of the pairs' differences.
    """
    mean, scale = standard(pairs)
    differences = (pairs.features_P_2_F[:, 1] - pairs.features_P_2_F[:, 0]) / scale
    basis = _basis(differences, pairs.columns, reduced or {})
    weights = []
    for signs in pairs.signs_P_N.T:
        given = signs != 0
        seen = differences[given] if basis is None else differences[given] @ basis
        fitted = fit_bradley_terry(seen, signs[given], ridge)
        weights.append(fitted if basis is None else basis @ fitted)
    return BradleyTerry(tuple(names), mean, scale, np.stack(weights))


def principal_axes(differences_P_F: Array, count: int) -> Array:
    """[F, K]: the directions in which the pairs differ most, K of at most `count`, each of a length that makes the
    root mean square of the differences along it 1.
    """
    _, sizes, axes = np.linalg.svd(differences_P_F, full_matrices=False)
    kept = sizes[:count] > 1e-9 * sizes[:1]
    return np.asarray(axes[:count][kept].T * (np.sqrt(len(differences_P_F)) / sizes[:count][kept]))


def _basis(differences_P_F: Array, columns: Mapping[str, slice], reduced: Mapping[str, int]) -> Array | None:
    """[F, K]: what a fit sees of the columns; None where that is each as it is."""
    if not reduced.keys() & columns.keys():
        return None
    from scipy.linalg import block_diag

    blocks = [
        principal_axes(differences_P_F[:, place], reduced[name])
        if name in reduced
        else np.eye(place.stop - place.start)
        for name, place in columns.items()
    ]
    return np.asarray(block_diag(*blocks))


def fit_own_scale(pairs: LabelledPairs, ridge: float) -> BradleyTerry:
    """A judge whose utility for objective i is a multiple of feature i alone: its own policy's log-ratio."""
    n = pairs.signs_P_N.shape[1]
    alone = [
        fit_utilities(LabelledPairs(pairs.features_P_2_F[..., [i]], pairs.signs_P_N[:, [i]]), ("logratios",), ridge)
        for i in range(n)
    ]
    mean, scale = (np.concatenate(parts) for parts in zip(*((j.mean_F, j.scale_F) for j in alone), strict=True))
    return BradleyTerry(("logratios",), mean, scale, np.diag([float(judge.weights_N_F[0, 0]) for judge in alone]))


def right_of(judge: BradleyTerry, pairs: LabelledPairs) -> Array:
    """[P, N]: 1 where the judge agrees with the preference, 0 where not, a half where it is even; NaN without one."""
    first, second = (judge.utilities(pairs.features_P_2_F[:, side]) for side in (0, 1))
    right = (np.sign((second - first) * pairs.signs_P_N) + 1) / 2
    return np.where(pairs.signs_P_N != 0, right, np.nan)
