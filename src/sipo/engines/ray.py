"""Local engines, or vLLM, in the actors of a Ray cluster.

The batches are planned here, as the local engine's are, no larger than leaves some for each actor. So whichever actor
computes one, however often it is asked for again, and in what order they come: a unit is what one process gives, up to
rounding. A batch that fails is halved until the request that fails is alone; it is told of when all others are done.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sipo.bank import Bank
from sipo.engines.batched import Batch, Batched, Knee, Texts, Units
from sipo.engines.cluster import Cluster, as_told
from sipo.engines.interface import Span
from sipo.engines.local import Local
from sipo.engines.vllm import BATCHES, Vllm
from sipo.errors import SipoError
from sipo.hush import hush, settle
from sipo.settings import Execution


@dataclass(frozen=True)
class Failed:
    """In the place of a request's result."""

    error: Exception


class Ray(Batched):
    """`execution.ray.actors` actors, which start with a call's first unfinished batch and end with the call.

    An actor that ends, or a node with all of its actors, is replaced by Ray, and costs what it was at. Raises SipoError
    at the end of a call, for the first request in it that failed; what the others gave has been yielded.
    """

    def __init__(self, execution: Execution, bank: Bank) -> None:
        """Tokens are counted at `bank`; the actors prove their models as it is proven."""
        super().__init__(execution)
        self._bank = bank
        self._cluster = Cluster(execution.ray)
        self.at_once = execution.ray.actors
        if execution.ray.engine == "vllm":
            self.refills = BATCHES

    def _bank_of(self, span: Span) -> Bank | None:
        return self._bank if span.model == self._bank.backbone.settings else None

    def _remaining(
        self, span: Span, plan: Sequence[tuple[Units, Batch]], done: Collection[int]
    ) -> Iterator[tuple[int, Any]]:
        failed: dict[int, Exception] = {}
        for unit, result in super()._remaining(span, plan, done):
            if isinstance(result, Failed):
                failed[unit] = result.error
            else:
                yield unit, result
        if failed:
            raise _told(failed, sum(len(units) for units, _ in plan))

    def _computed(self, span: Span, batches: Sequence[Batch]) -> Iterator[tuple[int, Sequence[Any]]]:
        if not batches:
            return
        # The longest prompts come last in a plan, and are begun first.
        lost = dict.fromkeys(reversed(range(len(batches))))
        replies = self._cluster.mapped(
            Actor, (self.execution, self._bank.layers, span), [(index, batches[index]) for index in lost]
        )
        for index, found, tokens, error in replies:
            self._bank.computed += tokens
            if error is not None:
                raise error
            del lost[index]
            yield index, found
        for index in lost:
            ended = SipoError(
                f"execution.engine: every actor ended that {batches[index]}; give actors more memory "
                "(execution.ray.num_cpus or num_gpus, so that fewer share a node), or lower execution.decode_rows and "
                "score_tokens"
            )
            yield index, [Failed(ended)] * len(batches[index])

    def _knee(self, span: Span) -> int | None:
        if span.model != self._bank.backbone.settings:
            found: Any = super()._knee(span)
            if isinstance(found, Failed):
                raise found.error
            return found
        with self._bank.mounted(span.loaded):
            return self._bank.knee

    def close(self) -> None:
        self._cluster.close()


class Actor:
    """An engine of a process of Ray's, for one span."""

    def __init__(self, execution: Execution, layers: Collection[str], span: Span) -> None:
        self.execution, self.span = execution, span
        self.local = Local(execution, layers=layers)
        self._compute: Callable[[Batch], Sequence[Any]] | None = None
        self._unfit: Exception | None = None

    def __call__(self, asked: tuple[int, Batch]) -> tuple[int, list[Any], int, Exception | None]:
        """Its index, a result or Failed for each unit, tokens, and what stands in the way of any batch."""
        index, batch = asked
        if self._compute is None and self._unfit is None:
            try:
                self._compute = self._opened()
            except Exception as error:
                self._unfit = as_told(error)
        if self._compute is None:
            return index, [], 0, self._unfit
        bank = self.local.bank(self.span)
        before = bank.computed
        return index, results(self._compute, batch), bank.computed - before, None

    def _opened(self) -> Callable[[Batch], Sequence[Any]]:
        settle()
        hush()
        torch.set_num_threads(max(1, int(self.execution.ray.num_cpus)))
        self.local.compute(self.span, Knee())  # loads and mounts: what fails here is no request's fault
        if self.execution.ray.engine == "vllm":
            return partial(_by_vllm, Vllm(self.execution, self.local.bank(self.span)), self.local, self.span)
        return partial(self.local.compute, self.span)


def _by_vllm(vllm: Vllm, local: Local, span: Span, batch: Batch) -> Sequence[Any]:
    """Texts are vLLM's. A call writes or scores, so an actor holds one engine at work."""
    if not isinstance(batch, Texts):
        return local.compute(span, batch)
    texts = dict(vllm.generate(span, batch.requests, batch.decoding, batch.limit, batch.stops))
    return [texts[unit] for unit in range(len(batch))]


def results(compute: Callable[[Batch], Sequence[Any]], batch: Batch) -> list[Any]:
    """A result or Failed for each unit."""
    try:
        return list(compute(batch))
    except Exception as error:
        halves = batch.halves()
        return [each for half in halves for each in results(compute, half)] or [Failed(as_told(error))]


def _told(failed: dict[int, Exception], asked: int) -> Exception:
    error = failed[min(failed)]
    if len(failed) == 1 or not isinstance(error, SipoError):
        return error
    return SipoError(f"{error} ({len(failed)} of {asked} requests failed; what the others gave is kept)")
