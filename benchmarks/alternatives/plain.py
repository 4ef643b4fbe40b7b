"""Plain: transformers alone on the backbone without adapters, the floor for whatever computes as many rows."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from sipo.logprobs.packing import Packed

Tokens = tuple[int, ...]


@torch.no_grad()
def generate(model: PreTrainedModel, prompts: Sequence[Tokens], new_tokens: int) -> list[Tokens]:
    """Greedy, by transformers' own `generate`; prompts of one length, nothing stops early."""
    ids = torch.tensor(prompts, device=model.device)
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    generate_: Any = model.generate
    written = generate_(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return [tuple(row) for row in written[:, ids.shape[1] :].tolist()]


@torch.no_grad()
def forward(model: PreTrainedModel, packed: Packed) -> list[float]:
    """Summed log-probabilities of the packed responses; only their positions pass the head."""
    with packed.layout.imposed():
        output = model.base_model(input_ids=packed.ids, **packed.layout.inputs(packed.ids.shape[1]), use_cache=False)
    logits = model.get_output_embeddings()(output.last_hidden_state.flatten(0, 1)[packed.predictors])
    each = -torch.nn.functional.cross_entropy(logits.float(), packed.targets, reduction="none")
    return torch.zeros(len(packed.lengths), device=each.device).index_add(0, packed.owner, each).tolist()
