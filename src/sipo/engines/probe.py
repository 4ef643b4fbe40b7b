"""Proving the fast ways of computing a model: they give what it gives of each sequence alone, without a cache.

Families differ in what they make of padding, of positions, of a cache, of several responses in a row; what the code of
one does is found out by asking it. The rows are short, but longer than any window: that is narrowed meanwhile.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sipo.bank.adapter import Adapter, widths
from sipo.bank.bank import Bank
from sipo.bank.routes import Routes
from sipo.bank.stacked import trunk_below
from sipo.decoding.batch import Request
from sipo.decoding.mixture import Mixture
from sipo.decoding.reading import prefill
from sipo.errors import SipoError, first_line
from sipo.logprobs.packing import Group, pack, predicting_states
from sipo.memory import is_full
from sipo.models.quantisation import dense, is_quantised

WINDOW = 5
"""Tokens that a layer with a window sees meanwhile; fewer than any of the sequences has."""
WIDENED = 2_000_000_000
"""A model of up to so many parameters is proven in float32, where rounding is far below any fault."""
TOLERANCES = {True: (3e-5, 0.01), False: (0.1, 0.25)}
"""How far apart logits may be, relative to their spread, in float32 and in 16 bits; and what rounding never excuses.

Measured, in models as they are drawn: rounding is 1e-6 in float32 and the least of leaks 1e-4; in 16 bits rounding is
.03, and .1 where it sends a token to another expert. In the few trained models that were tried, rounding is 5e-5 or
.08, and the leaks that were seen are .3 and more: one below the tolerance passes unseen, in 16 bits above all.
"""
NOISY = 10
"""They may also be as many times apart as where nothing can leak: in rows of the same length, without padding."""
POLICY, REFERENCE = (1.0,), (0.0,)


def find_routes(bank: Bank, layers: Sequence[str]) -> Routes:
    """The fastest routes that are right with these layers adapted. Raises SipoError where none is."""
    computed, before = bank.computed, bank.routes
    try:
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), _widened(bank), _narrowed(bank.model), exact:
            return _Probe(bank, layers).routes()
    finally:
        bank.computed, bank.routes = computed, before
        bank.kept.clear()  # another precision and other windows made them


class _Probe:
    def __init__(self, bank: Bank, layers: Sequence[str]) -> None:
        self.bank = bank
        self.random = torch.Generator().manual_seed(0)
        self.adapters = [self._adapter(layers)] if layers else []
        self.points: tuple[tuple[float, ...], ...] = (POLICY, REFERENCE) if layers else ((),)
        first, second, tail = self._tokens(9), self._tokens(2), self._tokens(7)
        self.first = Group(first, (tail, self._tokens(4)))
        self.second = Group((*first[:4], *second), (self._tokens(5),))
        self.plain: dict[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]], Tensor] = {}
        """Of each (prompt, response, point), the logits [R, V] that the response's tokens are drawn from."""
        self.tolerance, self.limit = TOLERANCES[bank.model.dtype == torch.float32]

    def routes(self) -> Routes:
        later = self._attempt("computing a sequence alone", self._looking_ahead)
        if not math.isfinite(later):
            raise self._refused("its logits are not finite")
        if later > self.limit:
            raise self._refused("its tokens see later ones")
        noise = self._demand("computing rows of one length", Routes(), self._even)
        self.tolerance = max(self.tolerance, min(NOISY * noise, self.limit))
        packs = self._right(Routes(), self._packed)
        if not packs:
            self._demand("scoring a response in a row of its own", Routes(packs=False), self._packed)
        mixes = self._right(Routes(), self._decoded)
        if not mixes:
            self._demand("decoding with a cache", Routes(mixes=False), self._decoded)
        shares = self._shares(Routes(packs, mixes, shares=True))
        return Routes(packs, mixes, shares, shares and self._right(Routes(packs, mixes, shares, True), self._kept))

    def _shares(self, routes: Routes) -> bool:
        """Is there a trunk, and is it right to share it?"""
        below = trunk_below(self.bank, self.adapters).depth
        return below > 0 and all(self._right(routes, measure) for measure in (self._packed, self._decoded))

    def _tokens(self, length: int) -> tuple[int, ...]:
        most = self.bank.model.config.get_text_config().vocab_size
        return tuple(torch.randint(min(5, most - 1), most, (length,), generator=self.random).tolist())

    def _adapter(self, layers: Sequence[str]) -> Adapter:
        """Random, with a tenth of the layers' own strength: a trained model is not to be thrown off its course."""
        found, factors = dict(self.bank.model.named_modules()), {}
        for name in layers:
            weight = dense(found[name])
            (d_in, d_out), rank = widths(found[name]), 2
            strength = 0.1 * float(weight.float().std()) * (d_in / rank) ** 0.5
            a = torch.randn(rank, d_in, generator=self.random) / d_in**0.5
            factors[name] = (
                a.to(weight.device),
                strength * torch.randn(d_out, rank, generator=self.random).to(weight.device),
            )
        return Adapter(factors, 1.0)

    def _plain(self, tokens: Sequence[int], point: tuple[float, ...]) -> Tensor:
        """The model's own logits [T, V] of a sequence alone, each layer updated by itself."""
        layers, hooks = dict(self.bank.model.named_modules()), []
        for name, (a, b) in self.adapters[0].factors.items() if point == POLICY else ():

            def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
                return output + inputs[0] @ a.T.to(output) @ b.T.to(output)

            hooks.append(layers[name].register_forward_hook(add))
        try:
            ids = torch.tensor([tokens], device=self.bank.device)
            return self.bank.model(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            for hook in hooks:
                hook.remove()

    def _looking_ahead(self) -> float:
        """What changes where a few tokens follow; before, computes what all else is held against."""
        for group in (self.first, self.second):
            for response in group.responses:
                for point in self.points:
                    logits = self._plain([*group.prompt, *response], point)
                    self.plain[group.prompt, response, point] = logits[len(group.prompt) - 1 : -1]
        (prompt, response, point), expected = next(iter(self.plain.items()))
        longer = self._plain([*prompt, *response, *self._tokens(3)], point)
        return _apart(longer[len(prompt) - 1 :][: len(response)], expected)

    def _even(self) -> float:
        """The same sequence at every point."""
        prompt, response = self.first.prompt, self.first.responses[0]
        ids = torch.tensor([[*prompt, *response]] * len(self.points), device=self.bank.device)
        output = self.bank.hidden_states(torch.tensor(self.points), input_ids=ids, use_cache=False)
        logits = self.bank.head(output.last_hidden_state[:, len(prompt) - 1 : -1]).float()
        return max(_apart(row, self.plain[prompt, response, p]) for row, p in zip(logits, self.points, strict=True))

    def _kept(self) -> float:
        return self._packed(again=True)

    def _packed(self, again: bool = False) -> float:
        """Two responses in a row in both orders, and one, in one batch."""
        turned = replace(self.first, responses=self.first.responses[::-1])
        groups = (self.first, turned, self.second, self.first)
        rows = [(group, self.points[i]) for group, i in zip(groups, (0, -1, 0, -1), strict=True)]
        packed = pack([group for group, _ in rows], self.bank.device, self.bank.routes.packs)
        points = torch.tensor([point for _, point in rows])[packed.group.cpu()]
        logits = self.bank.head(predicting_states(self.bank, packed, points, again)).float()
        plain = [self.plain[group.prompt, y, point] for group, point in rows for y in group.responses]
        return max(_apart(*pair) for pair in zip(logits.split([len(each) for each in plain]), plain, strict=True))

    def _decoded(self) -> float:
        """Both prompts as mixtures, one again as a single point; another joins the batch, or is read beside it, and the
        first leaves it."""
        both = Mixture(self.points, (1 / len(self.points),) * len(self.points))
        one = replace(both, points=self.points[:1], weights=(1.0,))
        mixes, groups = self.bank.routes.mixes, [self.second, self.first, self.first, self.second]
        if not mixes:
            groups = [self.first] * 3
        asked = [Request(g.prompt, m) for g, m in zip(groups, [both, both, one, one], strict=False)]
        batch, live = prefill(self.bank, asked[:3]), [0, 1, 2]
        worst = 0.0
        for time in range(5):
            if time == 1 and mixes and batch.cache.joins:
                batch, live = batch.joined(prefill(self.bank, asked[3:])), [*live, 3]
            elif time == 1:  # others write in turn: what a model keeps must be in the batch, not in its own layers
                prefill(self.bank, [Request(self.second.prompt, one)])
            at = [time - (request == 3) for request in live]
            plain = [
                self.plain[groups[r].prompt, groups[r].responses[0], point][step]
                for r, step in zip(live, at, strict=True)
                for point in asked[r].mixture.points
            ]
            worst = max([worst, *(_apart(*pair) for pair in zip(batch.logits.float(), plain, strict=True))])
            if time == 2 and mixes:
                batch, live, at = batch.keep(range(1, len(live))), live[1:], at[1:]
            tokens = torch.tensor([groups[r].responses[0][step] for r, step in zip(live, at, strict=True)])
            batch.advance(self.bank, tokens.to(self.bank.device)[batch.owner])
        return worst

    def _right(self, routes: Routes, measure: Any) -> bool:
        try:
            return self._apart(routes, measure) <= self.tolerance
        except Exception as error:  # whatever a model's code raises where it cannot go this way
            if is_full(error):
                raise
            return False

    def _demand(self, what: str, routes: Routes, measure: Any) -> float:
        """The distance, of a route without an alternative. Raises SipoError where rounding is no excuse for it."""
        distance = self._attempt(what, lambda: self._apart(routes, measure))
        if not distance <= self.limit:
            raise self._refused(f"{what} does not give what the plain model gives (logits off by {distance:.2g})")
        return distance

    def _apart(self, routes: Routes, measure: Any) -> float:
        self.bank.routes = routes
        with self.bank.mounted(self.adapters):
            return measure()

    def _attempt(self, what: str, measure: Any) -> float:
        try:
            return measure()
        except Exception as error:
            if is_full(error):
                raise
            reason = first_line(error)
            raise self._refused(f"{what} fails ({type(error).__name__}: {reason})") from None

    def _refused(self, why: str) -> SipoError:
        adapted = " with these layers adapted" if self.adapters else ""
        return SipoError(f"model type `{self.bank.model.config.model_type}`{adapted}: {why}; not supported")


def _apart(one: Tensor, other: Tensor) -> float:
    """The mean distance of logits [T, V] or [V], relative to their spread."""
    spread = (other - other.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((one - other).norm(dim=-1) / spread).mean())


@contextmanager
def _widened(bank: Bank) -> Iterator[None]:
    """A model that is not too large in float32; one that is quantised computes in its own dtype."""
    model = bank.model
    narrow = [t for t in (*model.parameters(), *model.buffers()) if t.dtype in (torch.bfloat16, torch.float16)]
    before = [t.data for t in narrow]
    widen = sum(t.numel() for t in narrow) <= WIDENED and not any(is_quantised(each) for each in model.parameters())
    try:
        for tensor in narrow if widen else ():
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(narrow, before, strict=True):
            tensor.data = data


@contextmanager
def _narrowed(model: PreTrainedModel) -> Iterator[None]:
    """Windows, chunks and choices of attention so narrow that short rows go beyond them."""
    holders = [model.config.get_text_config(), *model.modules()]
    names = ("sliding_window", "attention_chunk_size", "index_topk")
    wide = [(each, name, getattr(each, name, None)) for each in holders for name in names]
    before = [(each, name, value) for each, name, value in wide if type(value) is int and value > WINDOW]
    try:
        for each, name, _ in before:
            setattr(each, name, WINDOW)
        yield
    finally:
        for each, name, value in before:
            setattr(each, name, value)
