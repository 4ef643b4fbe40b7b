"""NaN and infinity, found where they first appear, so that nothing is computed from them."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from sipo.errors import SipoError

SMALLER = "set model.dtype to float32, or, where the model was trained, lower its learning rate and train anew"
"""The way out where a model's own numbers overflow."""


class NotFiniteError(SipoError):
    """Of a number that is NaN or infinite."""


def finite(values: ArrayLike | Mapping[str, float], what: str | Callable[[int], str], way_out: str = SMALLER) -> None:
    """Raise NotFiniteError for the first of the numbers that is NaN or infinite; `what` names it, if need be by
    its index.

    Of an array of several dimensions the index is that of the flat one; of a mapping the key is named as well.
    """
    keys = list(values) if isinstance(values, Mapping) else None
    flat = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64).ravel()
    bad = ~np.isfinite(flat)
    if bad.any():
        index = int(bad.argmax())
        name = what if isinstance(what, str) else what(index)
        name += f": {keys[index]}" if keys else ""
        raise NotFiniteError(f"{name} is {flat[index]}, no finite number; {way_out}")


def infinite_tensor(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or an infinite number; None where none does."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.detach().aminmax()  # one pass, which NaN goes through
            if not (bool(low.isfinite()) and bool(high.isfinite())):
                return name
    return None
