"""What an engine is: something that writes and scores responses for policies that it is told of, unit by unit.

Stages know nothing else of what computes. What is asked names its policies (a span), never what is mounted somewhere;
the units of a call depend on nothing but themselves, and come back by number, in any order.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sipo.bank import Policy, load_policy
from sipo.bank.policy import Point
from sipo.decoding import Generated, Mixture, Request
from sipo.disk.content import short_digest
from sipo.errors import SipoError
from sipo.logprobs.score import ScoreRequest
from sipo.settings import Decoding, Model

NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Span:
    """A backbone and N policies over it. The point (c_1, .., c_N) is the model whose update is sum_i c_i update_i.

    It pickles, with the policies that it holds; of those that it names by folder the folder alone.
    """

    model: Model
    policies: tuple[Policy | Path, ...] = ()
    """Policies of one kind, or folders of such, which are read where they are needed."""

    @cached_property
    def loaded(self) -> tuple[Policy, ...]:
        """Raises SipoError for a folder that cannot be read."""
        return tuple(load_policy(each) if isinstance(each, Path) else each for each in self.policies)

    @cached_property
    def key(self) -> str:
        """Names the content: equal in every process, and another for another model or policy."""
        parts = [self.model.model_dump_json(), *(policy.identity for policy in self.loaded)]
        return short_digest("\n".join(parts))

    @property
    def apart(self) -> bool:
        """Does a batch do well to hold requests of the same points alone? See `Policy.apart`."""
        return any(policy.apart for policy in self.loaded)

    def moves(self, point: Point) -> bool:
        """Whether the point is another model than the backbone: some policy with a share changes something."""
        return any(share and not policy.still for share, policy in zip(point, self.loaded, strict=True))

    def check(self, mixtures: Iterable[Mixture]) -> None:
        """Raise SipoError for a point that names other policies than there are."""
        for point in {point for mixture in mixtures for point in mixture.points}:
            if len(point) != len(self.policies):
                named = f"({', '.join(f'{share:g}' for share in point)})"
                raise SipoError(f"the point {named} is asked of a span of {len(self.policies)} policies; give each one")

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


class Engine(Protocol):
    """Both methods begin when they are iterated, and yield each unit once, by its index among `requests`.

    Units whose index is in `done` are left out, and nothing else changes by it: an engine that computes in batches
    plans them from all requests. So whoever keeps the results of a call that was broken off ends with those of one
    that was not. Calls may be interleaved, over several spans. `sipo.testing.engines` holds an engine to all of this.
    """

    def generate(
        self,
        span: Span,
        requests: Sequence[Request],
        decoding: Decoding,
        limit: int,
        stops: Collection[int],
        done: Collection[int] = NONE,
    ) -> Iterator[tuple[int, Generated]]:
        """Answer each request: up to `limit` tokens, ending with any of `stops`.

        A text depends on its request, which has its own random stream, and up to rounding on nothing else.
        Raises SipoError for the first logits that are not finite, a policy that is not there or does not fit.
        """
        ...

    def score(
        self, span: Span, requests: Sequence[ScoreRequest], done: Collection[int] = NONE
    ) -> Iterator[tuple[int, float]]:
        """log pi(y | x) of each request: natural, summed over the response's tokens; larger is likelier.

        Raises SipoError as `generate` does.
        """
        ...
