"""The engine of this process: `sipo.decoding` and `sipo.logprobs` over a bank."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from sipo.bank import Bank
from sipo.engines.batched import Batch, Batched, Room
from sipo.engines.interface import Span
from sipo.models.load import load_backbone
from sipo.settings import Execution


class Local(Batched):
    """Computes one batch after the other."""

    def __init__(self, execution: Execution, bank: Bank | None = None, layers: Collection[str] = ()) -> None:
        """`bank` serves all spans over its model; another model is loaded when it is asked for, in place of one that
        was loaded so before, and its routes are found with `layers` adapted.
        """
        super().__init__(execution)
        self.device, self.layers = execution.device, layers
        self.computed = 0
        """Tokens through a backbone so far, as `Bank.computed` has it."""
        self._given = bank
        self._loaded: Bank | None = None
        self._mounted: Span | None = None
        self._mount = ExitStack()
        self._room = Room(execution)

    def bank(self, span: Span) -> Bank:
        """That of the span's model, whatever is mounted there."""
        if self._given is not None and self._given.backbone.settings == span.model:
            return self._given
        if self._loaded is None or self._loaded.backbone.settings != span.model:
            self._release()
            self._loaded = None
            self._loaded = Bank(load_backbone(span.model, self.device))
            if self.layers:
                self._loaded.proven(self.layers)
        return self._loaded

    def _bank_of(self, span: Span) -> Bank:
        return self.bank(span)

    def compute(self, span: Span, batch: Callable[[Bank, Room], Sequence[Any]]) -> Sequence[Any]:
        """The batch's results. The span stays mounted, for others of it, until another is asked for or `close`."""
        bank = self.bank(span)
        if self._mounted is not span:
            self._release()
            self._mount.enter_context(bank.mounted(span.loaded))
            self._mounted = span
        before = bank.computed
        results = batch(bank, self._room)
        self.computed += bank.computed - before
        return results

    def _computed(self, span: Span, batches: Sequence[Batch]) -> Iterator[tuple[int, Sequence[Any]]]:
        try:
            for index, batch in enumerate(batches):
                yield index, self.compute(span, batch)
        finally:
            self._release()  # the bank is also trained on

    def _release(self) -> None:
        self._mounted = None
        self._mount.close()

    def close(self) -> None:
        """Let go of what was mounted and loaded."""
        self._release()
        self._loaded = None
