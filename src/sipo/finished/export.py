"""Policies for others to load: a method's model at a preference weight, as an ordinary adapter or merged."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from sipo.bank import Adapter, save_adapter, soup
from sipo.config import Model
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.disk.tables import write_text
from sipo.errors import SipoError
from sipo.finished.card import model_card
from sipo.finite import infinite_tensor
from sipo.models.chat import Codec
from sipo.models.ends import stated
from sipo.models.load import UNLIMITED, Backbone
from sipo.models.locate import origin_of
from sipo.models.pretrained import read_config, read_generation, read_tokenizer
from sipo.runs.outputs import backbone_of

if TYPE_CHECKING:
    from sipo.finished.handle import AlignedModel


def export(model: "AlignedModel", to: Path, *, merged: bool) -> Path:
    """Write the model into the new folder `to`, and return it (`AlignedModel.save_pretrained`)."""
    run, config, points = model.run, model.run.config, model.aligned.mixture.points
    check_name(to)
    if model.aligned.instruct is not None or model.aligned.best_of:
        raise SipoError(f"`{model.method}` is a way of asking the model, which no adapter can hold")
    if len(points) > 1:
        raise SipoError(
            f"`{model.method}` mixes {len(points)} models while decoding, which no adapter can hold; "
            "export the soup of its policies, by the method soups or sipo-soups"
        )
    mixed = soup(model.aligned.adapters, points[0])
    base = _base(run.path / "align" / "adapters" / config.names[0])
    with appearing(to) as folder:
        if merged:
            with run.turn:
                save_merged(run.task.backbone, run.task.codec.stops, mixed, folder)
        else:
            save_adapter(mixed, folder, base)
        rank = None if merged else mixed.rank
        codec = _codec(backbone_of(run.path, config))
        write_text(folder / "README.md", model_card(model, base=base, rank=rank, codec=codec))
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


def save_merged(backbone: Backbone, stops: Collection[int], mixed: Adapter, folder: Path) -> None:
    """Write the backbone with the adapter's update added, and leave it as it was. `stops` end an answer.

    Raises SipoError for weights that are not finite.
    """
    generation = backbone.model.generation_config
    ends = generation.eos_token_id
    with _added(backbone, mixed):
        try:
            generation.eos_token_id = sorted(stops)  # others stop where the policy learned to, too
            backbone.model.save_pretrained(folder)
        finally:
            generation.eos_token_id = ends
    backbone.tokenizer.save_pretrained(folder)


@contextmanager
def _added(backbone: Backbone, mixed: Adapter) -> Iterator[None]:
    """The backbone with the update added to its weights, in the block."""
    layers = dict(backbone.model.named_modules())
    before: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for name, (a, b) in mixed.factors.items():
                weight = layers[name].weight
                before.append((weight, weight.clone()))
                update = mixed.scaling * (b @ a)
                update = update.T if isinstance(layers[name], Conv1D) else update
                weight.copy_(weight.float() + update.to(weight.device))
                if infinite_tensor([(name, weight)]):
                    raise SipoError(
                        f"export: the merged weights of {name} are not finite in {weight.dtype}; "
                        "set model.dtype to float32"
                    )
        yield
    finally:
        with torch.no_grad():
            for weight, value in before:
                weight.copy_(value)
