"""What a model's work takes of a memory, by formula, and so how much of it is done at once.

For decoders of the Llama kind with gated feed-forward layers. Kernels' own working memory and the allocator's gaps are
not in the formulas, so a machine should have `SPARE` more.
"""

import math
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sipo.models.quantisation import bytes_of
from sipo.settings.model import Quantise

SPARE = 0.1
"""The share of a device's memory that a plan leaves free."""
ROWS, TOKENS = {"cpu": 64}, {"cpu": 4096}
"""Rows decoded at once, and tokens in a forward, beyond which more make a device no faster."""
GPU_ROWS, GPU_TOKENS = 256, 16384
"""The same of all others: by their bandwidth and their speed, not by measuring."""


@dataclass(frozen=True)
class Shape:
    """Numbers of a model; bytes are for one number of its dtype."""

    parameters: int
    bytes: int
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    queries: int
    """Width of all heads' queries together."""
    keys: int
    """Width of all heads' keys together, and as much for their values."""
    vocabulary: int
    weights: int
    """Bytes of all weights, as they are kept."""
    opened: int = 0
    """Bytes of the largest quantised weight, which is made whole again where it computes."""

    @property
    def token_cache(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.layers * self.keys * self.bytes

    def activations(self, rank: int, targets: int, row: int) -> int:
        """Bytes a token that one layer keeps for a backward through frozen weights, in rows of `row` tokens.

        Gate, its activation and up; queries, keys, values and their mix; the norm's output; both norms' inputs in
        float32; what LoRA's A gives; the mask; the softmax's and the norms' scales.
        """
        kept = 3 * self.feed_forward + 4 * self.queries + self.hidden + rank * targets + row
        return self.bytes * kept + 8 * self.hidden + 4 * self.heads + 8

    def whole_activations(self, row: int) -> int:
        """The same where all weights learn: also what is fed forward from gate and up, and what the norms give."""
        return self.activations(0, 0, row) + self.bytes * (self.feed_forward + 3 * self.hidden)

    def recomputed(self, activations: int, layers: int) -> int:
        """Bytes a token with gradient checkpointing of so many layers: each one's input; of the layer that is computed
        again, what one keeps, and as much for its gradients.
        """
        return layers * self.hidden * self.bytes + 2 * activations


def shape(model: PreTrainedModel, dtype: torch.dtype | None = None, quantise: Quantise | None = None) -> Shape:
    """Of a loaded model, or of an outline of it, to be quantised as told."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = _number(config, "num_attention_heads") or 1
    width = _number(config, "head_dim") or hidden // heads
    each = (dtype or model.dtype).itemsize
    return Shape(
        sum(parameter.numel() for parameter in model.parameters()),
        each,
        config.num_hidden_layers,
        hidden,
        _number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        heads,
        heads * width,
        (_number(config, "num_key_value_heads") or heads) * width,
        config.vocab_size,
        *bytes_of(model, model.get_output_embeddings(), quantise, each),
    )


def _number(config: PretrainedConfig, *names: str) -> int | None:
    """The first of these that the configuration states; of one for each layer, the largest."""
    for name in names:
        value = getattr(config, name, None)
        if value:
            return max(value) if isinstance(value, list | tuple) else int(value)
    return None


def rows_worth(device: str) -> int:
    """As many as are ever decoded at once by themselves, on a kind of device."""
    return ROWS.get(device, GPU_ROWS)


def tokens_worth(device: str) -> int:
    """In a forward of scoring or training."""
    return TOKENS.get(device, GPU_TOKENS)


def room_beside(of: Shape, memory: float, held: float, processes: int = 1) -> float:
    """Bytes for rows and tokens where the model and its policies take `held`, in each of so many processes that share
    a memory with the one that asks them.
    """
    return ((1 - SPARE) * memory - (of.weights if processes > 1 else 0)) / processes - held


def decoding_bytes(of: Shape, rows: float, prompt: int, new: int, shared: float = 0.0) -> float:
    """Of so many rows of prompts and responses of these lengths, beside the model: keys and values, of which a layer's
    are copied when they grow; all prompts in one layer; logits, and float32 ones twice. Rows have `shared` of the keys
    and values in common with others.
    """
    cache = rows * (prompt + new) * of.token_cache * (1 - shared)
    layer = rows * prompt * of.activations(0, 0, prompt)
    logits = rows * of.vocabulary * (of.bytes + 8)
    return cache * (1 + 1 / of.layers) + layer + logits


def rows_within(of: Shape, room: float, prompt: int, new: int, device: str) -> int:
    """How many rows of such prompts and responses so many bytes hold, as far as they pay; at least one."""
    return _within(room, decoding_bytes(of, 1, prompt, new), rows_worth(device))


def tokens_within(room: float, each: float, device: str) -> int:
    """How many tokens, which take so many bytes each; at least one."""
    return _within(room, each, tokens_worth(device))


def _within(room: float, each: float, most: int) -> int:
    return most if room >= most * each else max(1, math.floor(room / each))
