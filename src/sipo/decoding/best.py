"""Best of n: an answer is drawn n times, and the draw that the weighted implicit rewards find best is given."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sipo.decoding.batch import Request
from sipo.decoding.sampling import seed_of
from sipo.errors import SipoError
from sipo.settings import Decoding
from sipo.weights import Weight


@dataclass(frozen=True)
class BestOf:
    """Of n draws the one with the largest sum_i w_i r_i. Policy i, the adapter i that is mounted, has the implicit
    reward r_i = beta (log pi_i - log pi_ref): natural, summed over the draw's tokens; larger is better.
    """

    n: int
    weight: Weight
    temperature: float | None = None
    """Of the draws; None is that of all decoding."""

    def drawing(self, decoding: Decoding) -> Decoding:
        """The settings that draws are decoded with. Raises SipoError where all of them would be the same."""
        if self.temperature is not None:
            decoding = decoding.model_copy(update={"temperature": self.temperature})
        if self.n > 1 and decoding.temperature == 0:
            raise SipoError(f"at temperature 0 the {self.n} draws of best-of-n are the same; give one above 0")
        return decoding

    def draws(self, request: Request) -> list[Request]:
        """For one answer: the request itself, then others with noise of their own; they begin those of any larger n."""
        others = (replace(request, seed=seed_of(request.seed, "draw", number)) for number in range(1, self.n))
        return [request, *others]

    def pick(self, logratios: NDArray[np.float64]) -> int:
        """Which draw: the first of the best. logratios [n, N]: log pi_i - log pi_ref; beta, the same for all, is left
        out.
        """
        return int(np.argmax(logratios @ np.array(self.weight)))
