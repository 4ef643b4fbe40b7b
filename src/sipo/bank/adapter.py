"""One LoRA adapter: its factors, and its soups with others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from sipo.disk.content import short_digest
from sipo.errors import SipoError
from sipo.settings import Lora

if TYPE_CHECKING:
    from sipo.bank.bank import Bank
    from sipo.bank.policy import Mounted
    from sipo.models.load import Backbone

ADAPTABLE = (nn.Linear, Conv1D)
"""The layers that LoRA changes; a Conv1D, of GPT-2's family, is a linear one that keeps its weight as [in, out]."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank updates: layer `name` computes W x + scaling * B (A x).

    `factors` maps a layer's name in the backbone to (A [r, d_in], B [d_out, r]), both float32.

    >>> adapter = sipo.load_adapter(Path("runs/quickstart/align/adapters/detail"))
    >>> adapter.rank, adapter.scaling
    (2, 2.0)
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scaling: float
    apart: ClassVar[bool] = False

    @property
    def rank(self) -> int:
        return next(iter(self.factors.values()))[0].shape[0]

    @property
    def parameters(self) -> list[Tensor]:
        return [factor for pair in self.factors.values() for factor in pair]

    @property
    def layers(self) -> list[str]:
        return list(self.factors)

    @property
    def still(self) -> bool:
        """Does it change nothing, as a fresh one? Its policy then is the reference."""
        return not any(bool(b.any()) for _, b in self.factors.values())

    @property
    def identity(self) -> str:
        return short_digest(self._content())

    def _content(self) -> Iterator[bytes]:
        yield str(self.scaling).encode()
        for name, (a, b) in sorted(self.factors.items()):
            yield name.encode() + a.detach().cpu().numpy().tobytes() + b.detach().cpu().numpy().tobytes()

    def trainable_copy(self, device: torch.device) -> "Adapter":
        copies = {
            name: tuple(factor.detach().to(device, copy=True).requires_grad_() for factor in pair)
            for name, pair in self.factors.items()
        }
        return Adapter(copies, self.scaling)  # type: ignore[arg-type]

    def mount(self, bank: "Bank", policies: "Sequence[Adapter]") -> "AbstractContextManager[Mounted]":
        from sipo.bank.stacked import Stacked

        return Stacked.on(bank, policies)

    def soup(self, policies: "Sequence[Adapter]", weights: Sequence[float], model: nn.Module) -> "Adapter":
        return soup(policies, weights)

    @torch.no_grad()
    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        layers, weights = dict(model.named_modules()), {}
        for name, (a, b) in self.factors.items():
            weight, update = layers[name].weight, self.scaling * (b @ a)
            update = update.T if isinstance(layers[name], Conv1D) else update
            weights[f"{name}.weight"] = (weight.float() + update.to(weight.device)).to(weight.dtype)
        return weights

    def save(self, folder: Path, backbone: "Backbone") -> None:
        """A folder that PEFT loads over the backbone."""
        from sipo.bank.peft_folder import save_adapter

        save_adapter(self, folder, backbone.source)


USUAL = ("q_proj", "k_proj", "v_proj", "o_proj")


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that LoRA may change: not the output head, which stays frozen."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {n: m for n, m in model.named_modules() if isinstance(m, ADAPTABLE) and m is not head}


def attention_modules(model: nn.Module) -> tuple[str, ...]:
    """The last names of the linear layers of attention: q, k, v and o, or what the model has in their place.

    Raises SipoError where it has none.
    """
    linear = _linear(model)
    if {name.rsplit(".", 1)[-1] for name in linear}.issuperset(USUAL):
        return USUAL
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    parents = {name: kinds[name.rpartition(".")[0]] for name in linear}
    found = tuple(dict.fromkeys(n.rsplit(".", 1)[-1] for n, parent in parents.items() if "Attention" in parent))
    if not found:
        raise SipoError(f"lora.target_modules: the model has no layers of attention; name some of {_known(linear)}")
    return found


def target_layers(model: nn.Module, lora: Lora) -> dict[str, nn.Module]:
    """The linear layers that an adapter changes, without the output head, which stays frozen.

    Raises SipoError where one of `lora.target_modules` matches none, or none lies as high as `lora.layers` says.
    """
    suffixes = attention_modules(model) if lora.target_modules is None else lora.target_modules
    linear = _linear(model)
    for suffix in suffixes:
        if suffix not in {name.rsplit(".", 1)[-1] for name in linear}:
            raise SipoError(f"lora.target_modules: the model has no layer `{suffix}`; it has {_known(linear)}")
    found = {name: layer for name, layer in linear.items() if name.rsplit(".", 1)[-1] in suffixes}
    if lora.layers == "all" or lora.layers == 0:
        return found
    decoder = decoder_of(model)
    if decoder is None:
        raise SipoError(f"lora.layers: {lora.layers} of a model whose decoder layers are not a list; take all")
    name, layers = decoder
    lowest = len(layers) // 2 if lora.layers == "upper" else lora.layers
    high = {each: layer for each, layer in found.items() if lowest <= level(each, name)}
    if not high:
        raise SipoError(f"lora.layers: {lora.layers}, but the model's highest layer is {len(layers) - 1}")
    return high


def decoder_of(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The list of the model's decoder layers, one after the other, and its name."""
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    lists = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList))
    return next(((name, each) for name, each in lists if len(each) == count), None)


def level(layer: str, decoder: str) -> int:
    """The number of the decoder layer that a layer is in; -1 for one in none."""
    _, inside, rest = layer.partition(f"{decoder}.")
    return int(rest.partition(".")[0]) if inside and layer.startswith(inside) else -1


def lowest_layer(model: nn.Module, layers: Sequence[str]) -> int:
    """How many decoder layers come before the first that has one of these layers; none where they are not a list."""
    decoder = decoder_of(model)
    return max(0, min((level(each, decoder[0]) for each in layers), default=0)) if decoder else 0


def _known(linear: Mapping[str, nn.Module]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})) or "no linear layer at all"


def widths(layer: nn.Module) -> tuple[int, int]:
    """d_in and d_out of a layer that LoRA may change."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return layer.in_features, layer.out_features  # type: ignore[return-value]


def new_adapter(model: nn.Module, lora: Lora, seed: int) -> Adapter:
    """A fresh adapter: A as PEFT draws it (Kaiming uniform), B zero, so that it starts as the backbone."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, layer in target_layers(model, lora).items():
        d_in, d_out = widths(layer)
        bound = d_in**-0.5
        a = torch.empty(lora.r, d_in).uniform_(-bound, bound, generator=generator)
        factors[name] = (a, torch.zeros(d_out, lora.r))
    return Adapter(factors, lora.alpha / lora.r)


def factors_at(
    name: str, adapters: Sequence[Adapter], among: Sequence[Adapter] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """A and B of each at a layer; zeros for one that leaves as it is what another of them, or of `among`, changes."""
    a, b = next(adapter.factors[name] for adapter in among or adapters if name in adapter.factors)

    def nothing(rank: int) -> tuple[Tensor, Tensor]:
        return a.new_zeros(rank, a.shape[1]), b.new_zeros(len(b), rank)

    return [each.factors[name] if name in each.factors else nothing(each.rank) for each in adapters]


def soup(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The adapter whose update is sum_i w_i * scaling_i * B_i A_i, exactly (DPO soups; SIPO, section 2).

    Factors are stacked along the rank, so the rank is the sum of those with a weight other than zero. `weights` has a
    number for each adapter, [N]. Raises ValueError where it has not.

    >>> folder = Path("runs/quickstart/align/adapters")
    >>> policies = [sipo.load_adapter(folder / name) for name in ("detail", "plain")]
    >>> sipo.soup(policies, [0.3, 0.7]).rank
    4
    """
    parts = [(adapter, weight) for adapter, weight in zip(adapters, weights, strict=True) if weight != 0]
    parts = parts or [(adapters[0], 0.0)]
    factors = {}
    for name in dict.fromkeys(name for adapter, _ in parts for name in adapter.factors):
        downs, ups = zip(*factors_at(name, [adapter for adapter, _ in parts]), strict=True)
        scaled = [weight * adapter.scaling * up for (adapter, weight), up in zip(parts, ups, strict=True)]
        factors[name] = (torch.cat(downs), torch.cat(scaled, dim=1))
    return Adapter(factors, 1.0)


def cut(adapter: Adapter, rank: int) -> tuple[Adapter, dict[str, float]]:
    """The nearest adapter of this rank, and by layer how far off its update is: the relative Frobenius error, 0 to 1.

    Each layer's singular values beyond the rank are left out, which no update of that rank betters (Eckart and Young).
    B A is never formed: with B = Q R and A^T = P S, both of few columns, its singular values are those of R S^T.
    """
    factors, errors = {}, {}
    for name, (a, b) in adapter.factors.items():
        (q, r), (p, s) = torch.linalg.qr(b.detach().double()), torch.linalg.qr(a.detach().double().T)
        u, values, v = torch.linalg.svd(r @ s.T, full_matrices=False)
        kept, lost = values[:rank], values[rank:]
        root, lacking = kept.sqrt(), rank - len(kept)  # of a layer narrower than the rank
        up, down = q @ (u[:, : len(kept)] * root), (root[:, None] * v[: len(kept)]) @ p.T
        factors[name] = pad(down, (0, 0, 0, lacking)).float().contiguous(), pad(up, (0, lacking)).float().contiguous()
        errors[name] = float(lost.norm() / values.norm()) if values.any() else 0.0
    return Adapter(factors, adapter.scaling), errors


def factor_soup(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The adapter of sum_i w_i A_i and sum_i w_i B_i, averaged apart as the authors' code does: not the soup.

    At a corner it is that policy. Raises SipoError where the adapters' ranks or scalings differ, or for whole models.
    """
    if not all(isinstance(each, Adapter) for each in adapters):
        raise SipoError("factor-soups: whole models have no factors to average; take soups")
    if len({(adapter.rank, adapter.scaling) for adapter in adapters}) > 1:
        raise SipoError("factor-soups: the adapters differ in rank or scaling, so their factors have no average")

    def average(factors: Sequence[Tensor]) -> Tensor:
        return sum((w * factor for w, factor in zip(weights, factors, strict=True)), torch.zeros(()))

    factors = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.factors):
        down, up = zip(*factors_at(name, adapters), strict=True)
        factors[name] = (average(down), average(up))
    return Adapter(factors, adapters[0].scaling)
