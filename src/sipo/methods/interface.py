"""What a method is: for a preference weight, a model that answers.

Answering, comparison, export and generation know nothing else of a method.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sipo.weights import Weight

if TYPE_CHECKING:
    from sipo.bank import Adapter
    from sipo.decoding import Mixture


@dataclass(frozen=True)
class Aligned:
    """A model aligned to one weight: the adapters to mount, and the mixture of points in their span that answers."""

    adapters: "tuple[Adapter, ...]"
    mixture: "Mixture"


@dataclass(frozen=True)
class Method:
    name: str
    at: Callable[[Weight], Aligned]
    """Raises SipoError for a weight that the method was not trained at."""
    steerable: bool = True
    """False where the weight changes nothing: the front is then one point."""
