"""Peak memory of every stage, by formula: weights, adapters, optimizer, keys and values, activations.

For decoders of the Llama kind with gated feed-forward layers; docs/paper.md states the formulas. Kernels' own working
memory and the allocator's gaps are not in them, so a machine should have `SPARE` more.
"""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sipo.bank.adapter import target_layers, widths
from sipo.config import Config, Lora
from sipo.estimate.work import Lengths

SPARE = 0.1
"""The share of a device's memory that a plan leaves free."""
GIB = 2**30


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

    @property
    def weights(self) -> int:
        return self.parameters * self.bytes

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


def shape(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Shape:
    """Of a loaded model, or of an outline of it."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = _number(config, "num_attention_heads") or 1
    width = _number(config, "head_dim") or hidden // heads
    return Shape(
        sum(parameter.numel() for parameter in model.parameters()),
        (dtype or model.dtype).itemsize,
        config.num_hidden_layers,
        hidden,
        _number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        heads,
        heads * width,
        (_number(config, "num_key_value_heads") or heads) * width,
        config.vocab_size,
    )


def _number(config: PretrainedConfig, *names: str) -> int | None:
    """The first of these that the configuration states; of one for each layer, the largest."""
    for name in names:
        value = getattr(config, name, None)
        if value:
            return max(value) if isinstance(value, list | tuple) else int(value)
    return None


def adapter_parameters(model: PreTrainedModel, lora: Lora) -> int:
    layers = target_layers(model, lora.target_modules).values()
    return sum(lora.r * sum(widths(layer)) for layer in layers)


def _targets(model: PreTrainedModel, lora: Lora) -> int:
    """How many layers in each block are adapted."""
    return len({name.rsplit(".", 1)[-1] for name in target_layers(model, lora.target_modules)})


def peak_memory(
    config: Config, model: PreTrainedModel, of: Shape, lengths: Lengths, context: int, judges: list[int]
) -> dict[str, int]:
    """Bytes by stage. `lengths` are the longest; `judges` the bytes of the reward models, loaded one at a time."""
    n, execution = len(config.objectives), config.execution
    longest, review = config.data.max_response_tokens, config.refine.review_tokens
    adapter, targets = adapter_parameters(model, config.lora), _targets(model, config.lora)
    mounted = of.weights + n * adapter * of.bytes

    def training(row: float, adapters: int = n) -> int:
        tokens = max(execution.train_tokens, int(row))
        kept = of.activations(config.lora.r, targets, int(row))
        # float32 adapter, gradient, both moments and the best so far; its copy in the backbone's dtype
        trained = adapter * (5 * 4 + of.bytes)
        return of.weights + trained + (of.layers + 1) * kept * tokens

    def scoring(row: float) -> int:
        tokens = max(execution.score_tokens, int(row))
        return mounted + tokens * of.activations(config.lora.r, n * targets, int(row))

    def decoding(prompt: float, new: int) -> int:
        prompt = min(int(prompt), context - new)
        rows = execution.decode_rows
        cache = rows * (prompt + new) * of.token_cache
        # A layer's cache is copied when it grows; all prompts pass one layer at a time; logits, and float32 ones twice.
        layer = rows * prompt * of.activations(0, 0, prompt)
        logits = rows * of.vocabulary * (of.bytes + 8)
        return mounted + cache + cache // of.layers + layer + logits

    both = lengths.prompt + 2 * lengths.response
    reviewing = lengths.prompt + longest + lengths.review_frame
    rewriting = lengths.prompt + longest + review + lengths.rewrite_frame
    align = training(both)
    return {
        "sft": _sft(config, model, of),
        "align": align,
        "lw": align,
        "modpo": align,
        "raco": align + n * adapter * 4,  # each objective's gradient
        "consensus": align,
        "calibrate": align,
        "sample": decoding(lengths.prompt, longest),
        "refine": max(decoding(reviewing, review), decoding(rewriting, longest)),
        "score": scoring(lengths.prompt + 2 * longest),
        "realign": training(both + longest),
        "evaluate": max([decoding(lengths.prompt, longest), *(of.weights + each for each in judges)]),
    }


def _sft(config: Config, model: PreTrainedModel, of: Shape) -> int:
    """Layers' inputs are kept and one layer is computed again; all parameters have float32 copies where all learn."""
    if config.sft is None or not config.sft.enabled:
        return 0
    sft = config.sft
    tokens = sft.batch_size * sft.max_tokens
    rank, targets = (sft.lora.r, _targets(model, sft.lora)) if sft.lora else (0, 0)
    kept = tokens * (of.layers * of.hidden * of.bytes + 2 * of.activations(rank, targets, sft.max_tokens))
    if sft.lora:
        return of.weights + adapter_parameters(model, sft.lora) * 4 * 4 + kept
    copies = of.bytes if of.bytes < 4 else 0  # autocast's
    return of.parameters * (4 * 4 + copies) + kept
