"""The bank: one frozen backbone with N policies mounted side by side.

Every row of a batch carries a point c in the policies' span, so one batch holds the reference (c = 0), the policies
(c = e_i) and the exact soups (c = w) at once.
"""

import inspect
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sipo.bank.adapter import ADAPTABLE
from sipo.bank.cache import Cache
from sipo.bank.head import Head, find_head
from sipo.bank.kept import Kept
from sipo.bank.layout import Layout
from sipo.bank.policy import Mounted, Policy, Reading
from sipo.bank.recomputing import Again, check_recomputable, recomputing
from sipo.bank.routes import Routes, once
from sipo.bank.stacked import Stacked
from sipo.bank.trunk import Sharing
from sipo.bank.update import readers
from sipo.errors import SipoError
from sipo.memory import Pieces
from sipo.models.load import Backbone


class Bank:
    """A backbone that answers for any mixture of its mounted policies.

    Here are the reference and a policy in one forward of two rows:

    >>> import torch
    >>> bank = sipo.Task(sipo.load_config("quickstart.yaml")).bank
    >>> policy = sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))
    >>> with bank.mounted([policy]), torch.no_grad():
    ...     points, ids = torch.tensor([[0.0], [1.0]]), torch.tensor([[5, 6, 7], [5, 6, 7]])
    ...     logits = bank.logits(bank.hidden_states(points, input_ids=ids).last_hidden_state, points)
    >>> tuple(logits.shape) == (2, 3, bank.model.config.vocab_size)
    True
    """

    def __init__(self, backbone: Backbone, *, recomputes: bool = False) -> None:
        """`recomputes` the activations in a backward, in place of keeping them (`sipo.bank.recomputing`).

        Raises SipoError where the model's logits are more than a head over its last hidden state.
        """
        self.backbone = backbone
        self.model = backbone.model
        self.recomputes = recomputes
        if recomputes:
            check_recomputable(self.model)
        self.policies: tuple[Policy, ...] = ()
        self.computed = 0
        """Tokens that went through the backbone: rows times columns of every forward, padding included."""
        self.routes = Routes()
        """How this model is computed: what `proven` has found; until then, the fastest way."""
        self.kept = Kept()
        self.training_pieces = Pieces("tokens", "execution.train_tokens")
        """As many as the memory has held."""
        self._proven: frozenset[str] | None = None
        self._body = body_of(self.model)
        self._takes = inspect.signature(self._body.forward).parameters.keys()
        adaptable = {n: m for n, m in self.model.named_modules() if isinstance(m, ADAPTABLE)}
        self._reads = readers(adaptable, self._find_head)
        self._mounted: Mounted = Stacked(self)

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
            from sipo.engines.probe import find_routes

            self._proven = frozenset(layers).union(self._proven or ())
            try:
                adapted = sorted(self._proven)
                self.routes = once(self.model, adapted, lambda: find_routes(self, adapted))
            except BaseException:
                self._proven = None
                raise
        return self

    @contextmanager
    def mounted(self, policies: Sequence[Policy]) -> Iterator["Bank"]:
        """Mount policies of one kind for the duration of the block; a trainable one stays connected to its parameters.

        Raises SipoError where they do not fit, or the model cannot be served with them.
        """
        if self.policies:
            raise RuntimeError("policies are already mounted")
        if len(kinds := {type(each) for each in policies}) > 1:
            raise SipoError(f"{' and '.join(sorted(each.__name__ for each in kinds))} policies have no span in common")
        before = self._mounted
        with policies[0].mount(self, policies) if policies else Stacked.on(self, []) as mounted:
            self.proven([layer for policy in policies for layer in policy.layers])
            self.policies, self._mounted = tuple(policies), mounted
            try:
                yield self
            finally:
                self.policies, self._mounted = (), before

    def hidden_states(
        self,
        points: Tensor,
        *,
        layout: Layout | None = None,
        sharing: Sharing | None = None,
        again: Sequence[Hashable] | None = None,
        **inputs: Any,
    ) -> Any:
        """Run the backbone without its head; for the arguments see `Reading`.

        Returns an output with `last_hidden_state` [rows, T, d].
        """
        self.computed += inputs["input_ids"].numel()
        return self._mounted.forward(Reading(points, inputs, layout, sharing, again))

    def logits(self, hidden: Tensor, points: Tensor) -> Tensor:
        """[rows, .., d] -> [rows, .., V], each row by the output head at its point [rows, N]."""
        (rows, head), *others = self.heads(points)
        if rows is None:
            return head(hidden)
        first = head(hidden[rows])
        logits = first.new_empty(len(hidden), *first.shape[1:])
        logits[rows] = first
        for rows, head in others:
            logits[rows] = head(hidden[rows])
        return logits

    def heads(self, points: Tensor) -> list[tuple[Tensor | None, Head]]:
        """The output heads of rows at these points, each with the rows that pass it; None where all rows do."""
        return self._mounted.heads(points)

    def cache(self, sharing: Sharing | None = None) -> Cache:
        """For the keys and values of rows that are decoded, empty; `sharing`: which of them begin with the same."""
        return self._mounted.cache(sharing)

    def run(self, reading: Reading, again: Again) -> Any:
        """The model's own forward, without its head; what is computed again for a backward is so in `again`."""
        layout, inputs = reading.layout, reading.inputs
        if layout is not None:
            columns = inputs["input_ids"].shape[1]
            inputs = {**inputs, **{n: each for n, each in layout.inputs(columns).items() if n in self._takes}}
        recomputes = self.recomputes and torch.is_grad_enabled()
        with (
            layout.imposed() if layout is not None else nullcontext(),
            recomputing(self._body, again) if recomputes else nullcontext(),
        ):
            return self._body(**inputs)

    def input_of(self, name: str) -> tuple[int, str]:
        """Equal for layers that read the same tensor; one that no forward has reached stands alone."""
        return (self._reads[name], "") if name in self._reads else (0, name)

    def _find_head(self) -> None:
        self.head: Head = find_head(self.model, self._body)


def body_of(model: PreTrainedModel) -> nn.Module:
    """The model without its output head."""
    base = model.base_model
    return base if base is not model else getattr(model, "model", model)
