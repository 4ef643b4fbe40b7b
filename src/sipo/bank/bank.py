"""The bank: one frozen backbone with N adapters mounted side by side.

Every row of a batch carries a point c in the adapters' span, and layer by layer computes

    y = W x + sum_i c_i * scaling_i * B_i (A_i x)

so one forward holds the reference (c = 0), the policies (c = e_i) and the exact soups (c = w) at once.
"""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sipo.bank.adapter import ADAPTABLE, Adapter, widths
from sipo.bank.head import Head, find_head
from sipo.bank.layout import Layout
from sipo.bank.routes import Routes, once
from sipo.bank.update import Place, StackedUpdate, readers
from sipo.errors import SipoError
from sipo.models.load import Backbone


class Bank:
    """A backbone that answers for any mixture of its mounted adapters.

    Here are the reference and a policy in one forward of two rows:

    >>> import torch
    >>> bank = sipo.Task(sipo.load_config("quickstart.yaml")).bank
    >>> policy = sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))
    >>> with bank.mounted([policy]), torch.no_grad():
    ...     points, ids = torch.tensor([[0.0], [1.0]]), torch.tensor([[5, 6, 7], [5, 6, 7]])
    ...     logits = bank.head(bank.hidden_states(points, input_ids=ids).last_hidden_state)
    >>> tuple(logits.shape) == (2, 3, bank.model.config.vocab_size)
    True
    """

    def __init__(self, backbone: Backbone) -> None:
        """Raises SipoError where the model's logits are more than a head over its last hidden state."""
        self.backbone = backbone
        self.model = backbone.model
        self.adapters: tuple[Adapter, ...] = ()
        self.computed = 0
        """Tokens that went through the backbone: rows times columns of every forward, padding included."""
        self.routes = Routes()
        """How this model is computed: what `proven` has found; until then, the fastest way."""
        self._proven: frozenset[str] | None = None
        self._points: Tensor | None = None
        self._rank_points: Tensor | None = None
        self._place: Place | None = None
        self._body = body_of(self.model)
        self._takes = inspect.signature(self._body.forward).parameters.keys()
        adaptable = {n: m for n, m in self.model.named_modules() if isinstance(m, ADAPTABLE)}
        self._reads = readers(adaptable, self._find_head)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def knee(self) -> int | None:
        """The row length, in tokens, at which attention under a mask costs as much as everything else; None where every
        response has a row of its own.

        A token meets every weight once and every other token twice in each layer, at half the speed of the weights.
        """
        if not self.routes.packs:
            return None
        config = self.model.config.get_text_config()
        return max(1, self.model.num_parameters() // (4 * config.num_hidden_layers * config.hidden_size))

    @property
    def layers(self) -> list[str]:
        """Those that `routes` were found with."""
        return sorted(self._proven or ())

    def proven(self, layers: Collection[str]) -> "Bank":
        """The bank, with `routes` such as give what the plain model gives, those layers adapted; found once a
        process for the same model.

        Raises SipoError where there are none.
        """
        if self._proven is None or not self._proven.issuperset(layers):
            from sipo.bank.probe import find_routes  # it goes by routes that are built on this module

            self._proven = frozenset(layers).union(self._proven or ())
            try:
                adapted = sorted(self._proven)
                self.routes = once(self.model, adapted, lambda: find_routes(self, adapted))
            except BaseException:
                self._proven = None
                raise
        return self

    @contextmanager
    def mounted(self, adapters: Sequence[Adapter]) -> Iterator["Bank"]:
        """Mount adapters for the duration of the block; a trainable one stays connected to its parameters.

        Raises SipoError where the adapters do not fit, or the model cannot be served with them.
        """
        if self.adapters:
            raise RuntimeError("adapters are already mounted")
        self.proven(self._changed(adapters, dict(self.model.named_modules())))
        with self.mounted_unproven(adapters):
            yield self

    @contextmanager
    def mounted_unproven(self, adapters: Sequence[Adapter]) -> Iterator["Bank"]:
        """The same for the proof itself."""
        layers = dict(self.model.named_modules())
        names = self._changed(adapters, layers)
        like = torch.empty(0, dtype=self.model.dtype, device=self.device)
        self.adapters = tuple(adapters)
        hooks = []
        try:
            for _, together in groupby(sorted(names, key=self._input_of), self._input_of):
                update = StackedUpdate(list(together), adapters, like, lambda: self._place)
                hooks += [layers[n].register_forward_hook(partial(update.add, i)) for i, n in enumerate(update.names)]
            yield self
        finally:
            for hook in hooks:
                hook.remove()
            self.adapters, self._points, self._rank_points, self._place = (), None, None, None

    def hidden_states(self, points: Tensor, *, layout: Layout | None = None, **inputs: Any) -> Any:
        """Run the backbone without its head. `points` [rows, N]: each row's place in the adapters' span.

        `layout`: None where all rows begin at column 0 and are of one length, without padding. Returns the model's
        output with `last_hidden_state` [rows, T, d] and `past_key_values`.
        """
        if points is not self._points:
            self._points, self._rank_points = points, self._per_rank(points)
        self.computed += inputs["input_ids"].numel()
        columns = inputs["input_ids"].shape[1]
        self._place = None if self._rank_points is None else Place(self._rank_points, columns)
        if layout is not None:
            inputs.update({n: each for n, each in layout.inputs(columns).items() if n in self._takes})
        with layout.imposed() if layout is not None else nullcontext():
            return self._body(**inputs)

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
            shapes = {(a.shape[1], b.shape[0]) for a, b in (adapter.factors[name] for adapter in adapters)}
            if name not in layers:
                raise SipoError(f"the adapter changes layer `{name}`, which the model has not: another base?")
            if layers[name] is self.head.layer:  # its weight is also used directly, without the update
                raise SipoError(f"the adapter changes the output head `{name}`, which sipo keeps frozen")
            if not isinstance(layers[name], ADAPTABLE) or shapes != {widths(layers[name])}:
                raise SipoError(f"the adapter changes layer `{name}`, of another shape in the model: another base?")
        return names

    def _input_of(self, name: str) -> tuple[int, str]:
        """Equal for layers that read the same tensor; one that no forward has reached stands alone."""
        return (self._reads[name], "") if name in self._reads else (0, name)

    def _find_head(self) -> None:
        self.head: Head = find_head(self.model, self._body)


def body_of(model: PreTrainedModel) -> nn.Module:
    """The model without its output head."""
    base = model.base_model
    return base if base is not model else getattr(model, "model", model)
