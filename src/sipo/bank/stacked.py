"""LoRA adapters side by side on a bank: all rows in one forward, each at its own point of their span.

Layer by layer y = W x + sum_i c_i * scaling_i * B_i (A_i x), whatever N is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sipo.bank.adapter import ADAPTABLE, Adapter, widths
from sipo.bank.cache import Cache, RoomyCache
from sipo.bank.head import Head
from sipo.bank.layout import Layout
from sipo.bank.update import Place, StackedUpdate
from sipo.errors import SipoError

if TYPE_CHECKING:
    from sipo.bank.bank import Bank


class Stacked:
    """The adapters of a bank, by hooks on the layers that they change; none of them is the backbone itself."""

    def __init__(self, bank: "Bank", adapters: Sequence[Adapter] = ()) -> None:
        self.bank, self.adapters = bank, adapters
        self._points: Tensor | None = None
        self._rank_points: Tensor | None = None
        self._place: Place | None = None

    @classmethod
    @contextmanager
    def on(cls, bank: "Bank", adapters: Sequence[Adapter]) -> Iterator["Stacked"]:
        """Raises SipoError where the adapters do not fit."""
        names, layers = fitting(bank, adapters), dict(bank.model.named_modules())
        like = torch.empty(0, dtype=bank.model.dtype, device=bank.device)
        made = cls(bank, adapters)
        hooks = []
        try:
            for _, together in groupby(sorted(names, key=bank.input_of), bank.input_of):
                update = StackedUpdate(list(together), adapters, like, lambda: made._place)
                hooks += [layers[n].register_forward_hook(partial(update.add, i)) for i, n in enumerate(update.names)]
            yield made
        finally:
            for hook in hooks:
                hook.remove()

    def forward(self, points: Tensor, layout: Layout | None, inputs: dict[str, Any]) -> Any:
        if points is not self._points:
            self._points, self._rank_points = points, self._per_rank(points)
        columns = inputs["input_ids"].shape[1]
        self._place = None if self._rank_points is None else Place(self._rank_points, columns)
        return self.bank.run(layout, inputs)

    def heads(self, points: Tensor) -> list[tuple[Tensor | None, Head]]:
        return [(None, self.bank.head)]

    def cache(self) -> Cache:
        return RoomyCache(self.bank.model.config)

    def _per_rank(self, points: Tensor) -> Tensor | None:
        """[rows, 1, 1, R]: c_i * scaling_i for each of adapter i's ranks.

        None where all are zero: the reference alone runs at the backbone's speed.
        """
        scaled = points.float().cpu() * torch.tensor([adapter.scaling for adapter in self.adapters])
        if not self.adapters or not bool(scaled.any()):
            return None
        ranks = torch.tensor([adapter.rank for adapter in self.adapters])
        return scaled.repeat_interleave(ranks, dim=1)[:, None, None].to(self.bank.device, self.bank.model.dtype)


def fitting(bank: "Bank", adapters: Sequence[Adapter]) -> list[str]:
    """The layers that the adapters change. Raises SipoError where that makes no sense."""
    layers = dict(bank.model.named_modules())
    names = adapters[0].layers if adapters else []
    for adapter in adapters:
        for name in set(names) ^ set(adapter.factors):
            raise SipoError(f"one adapter changes layer `{name}` and another does not; train them on the same layers")
    for name in names:
        shapes = {(a.shape[1], b.shape[0]) for a, b in (adapter.factors[name] for adapter in adapters)}
        if name not in layers:
            raise SipoError(f"the adapter changes layer `{name}`, which the model has not: another base?")
        if layers[name] is bank.head.layer:  # its weight is also used directly, without the update
            raise SipoError(f"the adapter changes the output head `{name}`, which sipo keeps frozen")
        if not isinstance(layers[name], ADAPTABLE) or shapes != {widths(layers[name])}:
            raise SipoError(f"the adapter changes layer `{name}`, of another shape in the model: another base?")
    return names
