"""The low-rank update of the layers that read one input, as q, k and v do, for all mounted adapters at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sipo.bank.adapter import Adapter, factors_at


@dataclass(frozen=True)
class Run:
    """Rows of a forward that lie side by side, and the adapters that they pass."""

    rows: slice
    adapters: tuple[int, ...]
    per_rank: Tensor
    """[rows, 1, 1, R]: each row's c_i * scaling_i for every rank of these adapters."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a forward stand."""

    runs: Sequence[Run]
    """Of all rows, in order."""
    columns: int
    """Tokens a row."""

    @property
    def rows(self) -> int:
        return self.runs[-1].rows.stop


class StackedUpdate:
    """Adds sum_i c_i * scaling_i * B_i (A_i x) to each layer's output.

    The adapters of a run are stacked along the rank, and so are the layers' A: one product serves them all, whatever N
    is. Runs have the product with the frozen weight in common and nothing else: no number of an adapter reaches rows
    that do not pass it, not even as zero times infinity.
    """

    def __init__(
        self,
        names: Sequence[str],
        adapters: Sequence[Adapter],
        like: Tensor,
        place: Callable[[], Place | None],
    ) -> None:
        """`place()` is that of the present forward, None where all rows are the reference; `like` has the backbone's
        device and dtype.
        """
        self.names, self.adapters, self.like, self.place = names, adapters, like, place
        self._x: Tensor | None = None
        self._narrowed: list[tuple[Sequence[Tensor], list[Tensor]] | None] = []
        self._training = trains(adapters)
        self._kept: dict[tuple[int, ...], tuple[Tensor, list[Tensor]]] = {}

    def add(self, layer: int, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook of the layer `names[layer]`: its output, updated.

        The input is [rows, .., d_in], or [rows * T, d_in] as experts read it.
        """
        place = self.place()
        if place is None:
            return output
        if inputs[0] is not self._x:
            x = inputs[0]
            if len(x) != (place.rows if x.dim() > 2 else place.rows * place.columns):
                raise ValueError(f"layer `{self.names[layer]}` does not read all tokens row by row")
            by_row = x.reshape(place.rows, -1, x.shape[-1])
            self._x, self._narrowed = x, [self._narrow(by_row[run.rows], run) for run in place.runs]
        updates = [None if each is None else (each[0][layer], each[1][layer]) for each in self._narrowed]
        if layer == len(self.names) - 1:
            self.forget()
        flat = output.flatten(0, -2)
        tokens = len(flat) // place.rows
        parts = flat.split([tokens * len(run.per_rank) for run in place.runs]) if len(updates) > 1 else [flat]
        if not torch.is_grad_enabled():  # in place, which spares a copy of the output
            for part, update in zip(parts, updates, strict=True):
                if update:
                    part.addmm_(*update)
            return flat.view_as(output)
        added = [part.addmm(*update) if update else part for part, update in zip(parts, updates, strict=True)]
        return (torch.cat(added) if len(added) > 1 else added[0]).view_as(output)

    def forget(self) -> None:
        """Let go of a forward that was broken off: its input leads to all that was kept for a way back."""
        self._x, self._narrowed = None, []

    def _narrow(self, x: Tensor, run: Run) -> tuple[Sequence[Tensor], list[Tensor]] | None:
        """Of each layer what A makes of the run's rows [rows * T, R], scaled, and its B [R, d_out]; None of the
        reference.
        """
        if not run.adapters:
            return None
        down, ups = self._stacked(run.adapters)
        inner = (x @ down.T).unflatten(-1, (len(self.names), -1)) * run.per_rank
        return inner.flatten(0, 1).unbind(1), ups

    def _stacked(self, adapters: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        """A of all layers and these adapters [layers * R, d_in], and each layer's B [R, d_out]."""
        if adapters in self._kept:
            return self._kept[adapters]
        mine = [self.adapters[place] for place in adapters]
        pairs = [factors_at(name, mine, self.adapters) for name in self.names]
        down = torch.cat([a.to(self.like) for layer in pairs for a, _ in layer])
        made = down, [torch.cat([b.to(self.like) for _, b in layer], dim=1).T for layer in pairs]
        if not self._training:  # what is trained changes from step to step
            self._kept[adapters] = made
        return made


def trains(adapters: Sequence[Adapter]) -> bool:
    return any(factor.requires_grad for adapter in adapters for factor in adapter.parameters)


def readers(layers: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[str, int]:
    """Which layers read the very same tensor in a forward: equal numbers do."""
    seen: list[Tensor] = []
    reads: dict[str, int] = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and (not seen or inputs[0] is not seen[-1]):
                seen.append(inputs[0])
            reads[name] = len(seen)

        return note

    hooks = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return reads
