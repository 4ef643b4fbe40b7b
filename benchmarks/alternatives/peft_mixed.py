"""PEFT's mixed-adapter batch: one forward holds rows of several adapters, named row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.alternatives.stepping import Tokens, mixed_greedily
from benchmarks.alternatives.switched import Switched
from sipo.bank.policy import Point


def decode(
    switched: Switched,
    prompts: Sequence[Tokens],
    points: Sequence[Point],
    weights: Sequence[Sequence[float]],
    new_tokens: int,
) -> list[Tokens]:
    """MOD over all prompts at once, K rows each."""
    names = [switched.name(point) for point in points for _ in prompts]
    cache = DynamicCache(config=switched.backbone.model.config)
    model = switched.model
    assert model is not None

    def step(ids: Tensor) -> Tensor:
        output = model(
            input_ids=ids.repeat(len(points), 1), past_key_values=cache, use_cache=True, logits_to_keep=1,
            adapter_names=names,
        )  # fmt: skip
        return output.logits[:, -1].unflatten(0, (len(points), -1))

    return mixed_greedily(step, prompts, torch.tensor(weights, device=switched.backbone.device), new_tokens)
