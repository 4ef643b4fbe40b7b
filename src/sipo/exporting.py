"""Policies for others to load: a method's model at a preference weight, as an ordinary adapter or merged."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from sipo.bank import Adapter, save_adapter, soup
from sipo.card import model_card
from sipo.config import Model
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.finite import infinite_tensor
from sipo.methods.registry import improves
from sipo.models.chat import Codec
from sipo.models.ends import stated
from sipo.models.load import UNLIMITED, load_backbone
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_config, read_generation, read_tokenizer
from sipo.runs.finished import aligned_at, check_model
from sipo.runs.outputs import backbone_of
from sipo.runs.status import read_run
from sipo.weights import as_weight


def export(
    run: Path, weights: Mapping[str, float], to: Path, *, method: str | None = None, merged: bool = False
) -> Path:
    """Write a method's model at a weight into the new folder `to`, and return it.

    An ordinary PEFT adapter, exact; or, `merged`, the whole model with W + sum_i w_i s_i B_i A_i, added up in
    float32 and rounded once to the model's dtype. `method` is one whose answer is a single model, such as soups, lw
    or sipo-soups; None takes the soup of the realigned policies where there are any, else of the DPO policies.
    Raises SipoError for MOD and sipo, which mix several models token by token.
    """
    config, to = read_run(run), Path(to)
    check_name(to)
    method = method or ("sipo-soups" if improves(config.methods) else "soups")
    weight = as_weight(weights, config.names, "weights")
    aligned = aligned_at(run, config, method, weight)
    if len(aligned.mixture.points) > 1:
        raise SipoError(
            f"`{method}` mixes {len(aligned.mixture.points)} models while decoding, which no adapter can hold; "
            "export the soup of its policies with --method soups or sipo-soups"
        )
    mixed = soup(aligned.adapters, aligned.mixture.points[0])
    base = _base(Path(run) / "align" / "adapters" / config.names[0])
    with appearing(to) as folder:
        if merged:
            check_model(run, config)
            _save_merged(backbone_of(Path(run), config), config.execution.device, mixed, folder)
        else:
            save_adapter(mixed, folder, base)
        rank = None if merged else mixed.rank
        codec = _codec(backbone_of(Path(run), config))
        card = model_card(Path(run), config, weight, method=method, base=base, rank=rank, codec=codec)
        write_text(folder / "README.md", card)
    return to


def _base(adapter: Path) -> str:
    """Where the policies' base is found: a hub id or an absolute path."""
    return str(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])


def _codec(model: Model) -> Codec | None:
    """How the model is asked, read without its weights; None where it is not on this machine."""
    try:
        origin = origin_of(model)
        ends, tokenizer = stated(read_config(origin), read_generation(origin)), read_tokenizer(origin)
    except SipoError:
        return None
    return Codec(
        tokenizer, UNLIMITED, UNLIMITED, model.prompt_template, ends, model.end_tokens, thinking=model.thinking
    )


@torch.no_grad()
def _save_merged(model: Model, device: str, mixed: Adapter, folder: Path) -> None:
    backbone = load_backbone(model, device)
    layers = dict(backbone.model.named_modules())
    for name, (a, b) in mixed.factors.items():
        weight = layers[name].weight
        update = mixed.scaling * (b @ a)
        update = update.T if isinstance(layers[name], Conv1D) else update
        weight.copy_(weight.float() + update.to(weight.device))
        if infinite_tensor([(name, weight)]):
            raise SipoError(
                f"export: the merged weights of {name} are not finite in {weight.dtype}; set model.dtype to float32"
            )
    # Others stop where the policy learned to, too.
    stops = Codec.of(backbone, model, backbone.context, backbone.context).stops
    backbone.model.generation_config.eos_token_id = sorted(stops)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
