"""Merged: N whole copies of the model, each with its adapter merged into the weights."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.alternatives.stepping import Tokens, mixed_greedily
from sipo.bank import Adapter, save_adapter
from sipo.models.load import Backbone
from sipo.models.packed import pack


def merged_copies(backbone: Backbone, adapters: Sequence[Adapter]) -> list[PreTrainedModel]:
    copies = []
    for adapter in adapters:
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(adapter, Path(folder), backbone.source)
            model = PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder)
        copies.append(model.merge_and_unload().eval().requires_grad_(False))
        pack(copies[-1])
    return copies


def decode(
    models: Sequence[PreTrainedModel], prompts: Sequence[Tokens], weights: Sequence[Sequence[float]], new_tokens: int
) -> list[Tokens]:
    """MOD over all prompts at once, one forward a copy."""
    caches = [DynamicCache(config=model.config) for model in models]

    def step(ids: Tensor) -> Tensor:
        logits = [
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            for model, cache in zip(models, caches, strict=True)
        ]
        return torch.stack(logits)

    return mixed_greedily(step, prompts, torch.tensor(weights, device=models[0].device), new_tokens)
