"""LoRA adapters side by side on a bank: all rows in one forward, each at its own point of their span.

Layer by layer y = W x + sum_i c_i * scaling_i * B_i (A_i x), whatever N is. While adapters are trained each row passes
those alone that it has a share of.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sipo.bank.adapter import ADAPTABLE, Adapter, decoder_of, lowest_layer, widths
from sipo.bank.cache import Cache, RoomyCache
from sipo.bank.head import Head
from sipo.bank.policy import Reading
from sipo.bank.trunk import Sharing, Trunk
from sipo.bank.update import Place, Run, StackedUpdate, trains
from sipo.errors import SipoError
from sipo.ranks import current

if TYPE_CHECKING:
    from sipo.bank.bank import Bank


class Stacked:
    """The adapters of a bank, by hooks on the layers that they change; none of them is the backbone itself."""

    def __init__(self, bank: "Bank", adapters: Sequence[Adapter] = ()) -> None:
        self.bank, self.adapters = bank, adapters
        self.trunk = trunk_below(bank, adapters)
        self._training = trains(adapters)
        self._updates: list[StackedUpdate] = []
        self._points: Tensor | None = None
        self._runs: list[Run] = []
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
                made._updates.append(update)
                hooks += [layers[n].register_forward_hook(partial(update.add, i)) for i, n in enumerate(update.names)]
            with made.trunk.hooked():
                yield made
        finally:
            for hook in hooks:
                hook.remove()

    def forward(self, reading: Reading) -> Any:
        if reading.points is not self._points:
            self._points, self._runs = reading.points, self._split(reading.points)
        place = Place(self._runs, reading.inputs["input_ids"].shape[1]) if self._runs else None
        sharing = self._shared(reading.inputs.get("past_key_values"), reading.sharing)
        below = reading if sharing is None else reading.of(sharing.first)
        keeps = self.trunk.depth and self.bank.routes.keeps and not current().in_step  # others may have kept others
        kept = self._kept(below) if keeps and below.again and below.layout else None
        with self.trunk.given(kept) if kept is not None else nullcontext(), self._standing(place):
            return self.bank.run(below, lambda: self._standing(place))

    def _kept(self, reading: Reading) -> Tensor:
        """What the trunk makes of the rows [rows, T, d], each by itself; zeros where there is padding."""
        assert reading.again is not None
        states = []
        for row, key in enumerate(reading.again):
            run = partial(self.bank.run, reading.alone(row), nullcontext)
            states.append(self.bank.kept.states((key, self.trunk.depth), partial(self.trunk.states, run))[0])
        return pad_sequence([each.to(self.bank.device) for each in states], batch_first=True)

    @contextmanager
    def _standing(self, place: Place | None) -> Iterator[None]:
        """The rows stand there in this block."""
        before, self._place = self._place, place
        try:
            yield
        except BaseException:
            for update in self._updates:
                update.forget()
            raise
        finally:
            self._place = before

    def heads(self, points: Tensor) -> list[tuple[Tensor | None, Head]]:
        return [(None, self.bank.head)]

    def cache(self, sharing: Sharing | None = None) -> Cache:
        depth = self.trunk.depth if self.bank.routes.shares else 0
        return RoomyCache(self.bank.model.config, sharing if depth else None, depth)

    def _shared(self, cache: RoomyCache | None, given: Sharing | None) -> Sharing | None:
        """What the rows of the next forward share."""
        depth = self.trunk.depth if self.bank.routes.shares else 0
        if cache is not None:  # it may have been filled under other adapters
            cache.cut(depth)
            depth, given = cache.depth, cache.sharing
        sharing = given if depth else None
        self.trunk.share(sharing, depth)
        return sharing

    def _split(self, points: Tensor) -> list[Run]:
        """The rows by what they pass; none where all are the reference, which alone runs at the backbone's speed."""
        scaled = points.float().cpu() * torch.tensor([adapter.scaling for adapter in self.adapters])
        if not self.adapters or not bool(scaled.any()):
            return []
        if not self._training:
            return [self._run(slice(0, len(points)), tuple(range(len(self.adapters))), scaled)]
        runs, at = [], 0
        for passed, rows in groupby(map(tuple, (scaled != 0).tolist())):
            here = slice(at, at + sum(1 for _ in rows))
            runs.append(self._run(here, tuple(place for place, each in enumerate(passed) if each), scaled[here]))
            at = here.stop
        return runs

    def _run(self, rows: slice, adapters: tuple[int, ...], scaled: Tensor) -> Run:
        """`scaled` [rows, N]: c_i * scaling_i."""
        ranks = torch.tensor([self.adapters[place].rank for place in adapters], dtype=torch.long)
        per_rank = scaled[:, list(adapters)].repeat_interleave(ranks, dim=1)[:, None, None]
        return Run(rows, adapters, per_rank.to(self.bank.device, self.bank.model.dtype))


def trunk_below(bank: "Bank", adapters: Sequence[Adapter]) -> Trunk:
    """What all of these adapters leave as it is: nothing where the model's decoder layers are not a list."""
    decoder = decoder_of(bank.model)
    if decoder is None or not adapters:
        return Trunk(None, 0)
    return Trunk(decoder[1], lowest_layer(bank.model, [each for adapter in adapters for each in adapter.layers]))


def fitting(bank: "Bank", adapters: Sequence[Adapter]) -> list[str]:
    """The layers that the adapters change. Raises SipoError where that makes no sense."""
    layers = dict(bank.model.named_modules())
    names = list(dict.fromkeys(name for adapter in adapters for name in adapter.factors))
    for name in names:
        have = [adapter.factors[name] for adapter in adapters if name in adapter.factors]
        shapes = {(a.shape[1], b.shape[0]) for a, b in have}
        if name not in layers:
            raise SipoError(f"the adapter changes layer `{name}`, which the model has not: another base?")
        if layers[name] is bank.head.layer:  # its weight is also used directly, without the update
            raise SipoError(f"the adapter changes the output head `{name}`, which sipo keeps frozen")
        if not isinstance(layers[name], ADAPTABLE) or shapes != {widths(layers[name])}:
            raise SipoError(f"the adapter changes layer `{name}`, of another shape in the model: another base?")
    return names
