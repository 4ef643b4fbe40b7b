"""The bank: one frozen backbone with N adapters mounted side by side.

Every row of a batch carries a point c in the adapters' span, and layer by layer computes

    y = W x + sum_i c_i * scaling_i * B_i (A_i x)

so one forward holds the reference (c = 0), the policies (c = e_i) and the exact soups (c = w) at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from sipo.bank.adapter import Adapter
from sipo.bank.update import StackedUpdate, readers
from sipo.errors import SipoError
from sipo.models.load import Backbone


class Bank:
    """A backbone that answers for any mixture of its mounted adapters."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.model = backbone.model
        self.adapters: tuple[Adapter, ...] = ()
        self.computed = 0
        """Tokens that went through the backbone: rows times columns of every forward, padding included."""
        self._points: Tensor | None = None
        self._rank_points: Tensor | None = None
        linear = {n: m for n, m in self.model.named_modules() if isinstance(m, nn.Linear)}
        self._reads = readers(linear, self._check_head)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def head(self) -> nn.Linear:
        """Hidden states to logits, [.., d] -> [.., V]; frozen and linear."""
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    @cached_property
    def knee(self) -> int:
        """The row length, in tokens, at which attention under a mask costs as much as everything else.

        A token meets every weight once and every other token twice in each layer, at half the speed of the weights.
        """
        config = self.model.config.get_text_config()
        return max(1, self.model.num_parameters() // (4 * config.num_hidden_layers * config.hidden_size))

    @contextmanager
    def mounted(self, adapters: Sequence[Adapter]) -> Iterator["Bank"]:
        """Mount adapters for the duration of the block; a trainable one stays connected to its parameters."""
        if self.adapters:
            raise RuntimeError("adapters are already mounted")
        layers = dict(self.model.named_modules())
        names = self._changed(adapters, layers)
        self.adapters = tuple(adapters)
        hooks = []
        try:
            for _, together in groupby(sorted(names, key=self._input_of), self._input_of):
                update = StackedUpdate(list(together), adapters, self.head.weight, lambda: self._rank_points)
                hooks += [layers[n].register_forward_hook(partial(update.add, i)) for i, n in enumerate(update.names)]
            yield self
        finally:
            for hook in hooks:
                hook.remove()
            self.adapters, self._points, self._rank_points = (), None, None

    def hidden_states(self, points: Tensor, **inputs: Any) -> Any:
        """Run the backbone without its head. `points` [rows, N]: each row's place in the adapters' span.

        Returns the model's output with `last_hidden_state` [rows, T, d] and `past_key_values`.
        """
        if points is not self._points:
            self._points, self._rank_points = points, self._per_rank(points)
        self.computed += inputs["input_ids"].numel()
        return self.model.base_model(**inputs)

    def _per_rank(self, points: Tensor) -> Tensor | None:
        """[rows, 1, 1, R]: c_i * scaling_i for each of adapter i's ranks.

        None where all are zero: the reference alone runs at the backbone's speed.
        """
        scaled = points.float().cpu() * torch.tensor([adapter.scaling for adapter in self.adapters])
        if not self.adapters or not bool(scaled.any()):
            return None
        ranks = torch.tensor([adapter.rank for adapter in self.adapters])
        return scaled.repeat_interleave(ranks, dim=1)[:, None, None].to(self.device, self.model.dtype)

    def _changed(self, adapters: Sequence[Adapter], layers: dict[str, nn.Module]) -> list[str]:
        """The layers that the adapters change. Raises SipoError where that makes no sense."""
        names = list(adapters[0].factors) if adapters else []
        for adapter in adapters:
            for name in set(names) ^ set(adapter.factors):
                raise SipoError(
                    f"one adapter changes layer `{name}` and another does not; train them on the same layers"
                )
        for name in names:
            if name not in layers:
                raise SipoError(f"the adapter changes layer `{name}`, which the model has not: another base?")
            if layers[name] is self.head:  # its weight is also used directly, without the update
                raise SipoError(f"the adapter changes the output head `{name}`, which sipo keeps frozen")
        return names

    def _input_of(self, name: str) -> tuple[int, str]:
        """Equal for layers that read the same tensor; one that no forward has reached stands alone."""
        return (self._reads[name], "") if name in self._reads else (0, name)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse models whose logits are more than a linear layer over the last hidden state."""
        ids = torch.arange(3, device=self.device)[None]
        expected = self.model(ids).logits.float()
        actual = self.head(self.model.base_model(ids).last_hidden_state).float()
        if self.head.bias is not None or not torch.allclose(actual, expected, rtol=1e-2, atol=1e-2):
            kind = self.model.config.model_type
            raise SipoError(f"model type `{kind}`: its logits are more than head times hidden state; not supported")
