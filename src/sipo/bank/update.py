"""The low-rank update of the layers that read one input, as q, k and v do, for all mounted adapters at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sipo.bank.adapter import Adapter, factors_at


@dataclass(frozen=True)
class Place:
    """Where the rows of a forward stand."""

    per_rank: Tensor
    """[rows, 1, 1, R]: each row's c_i * scaling_i for every rank."""
    columns: int
    """Tokens a row."""


class StackedUpdate:
    """Adds sum_i c_i * scaling_i * B_i (A_i x) to each layer's output.

    The adapters are stacked along the rank, and so are the layers' A: one product serves them all, whatever N is.
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
        training = any(factor.requires_grad for adapter in adapters for factor in adapter.parameters)
        self._frozen = None if training else self._stacked()  # what is trained changes from step to step

    def add(self, layer: int, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook of the layer `names[layer]`: its output, updated.

        The input is [rows, .., d_in], or [rows * T, d_in] as experts read it.
        """
        place = self.place()
        if place is None:
            return output
        if inputs[0] is not self._x:
            down, self._ups = self._frozen or self._stacked()
            x, rows = inputs[0], len(place.per_rank)
            if len(x) != (rows if x.dim() > 2 else rows * place.columns):
                raise ValueError(f"layer `{self.names[layer]}` does not read all tokens row by row")
            inner = (x.reshape(rows, -1, x.shape[-1]) @ down.T).unflatten(-1, (len(self.names), -1)) * place.per_rank
            self._x, self._inner = x, inner.flatten(0, 1).unbind(1)  # of each layer [rows * T, R]
        inner, up = self._inner[layer], self._ups[layer]
        if layer == len(self.names) - 1:
            self._x = None
            del self._inner, self._ups
        flat = output.flatten(0, -2)
        add = flat.addmm if torch.is_grad_enabled() else flat.addmm_  # in place spares a copy of the output
        return add(inner, up).view_as(output)

    def _stacked(self) -> tuple[Tensor, list[Tensor]]:
        """A of all layers and adapters [layers * R, d_in], and each layer's B [R, d_out]."""
        pairs = [factors_at(name, self.adapters) for name in self.names]
        down = torch.cat([a.to(self.like) for layer in pairs for a, _ in layer])
        return down, [torch.cat([b.to(self.like) for _, b in layer], dim=1).T for layer in pairs]


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
