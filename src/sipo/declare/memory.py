"""Peak memory of every stage, by formula: weights, policies, optimizer, keys and values, activations.

For decoders of the Llama kind with gated feed-forward layers; docs/paper.md states the formulas. Kernels' own working
memory and the allocator's gaps are not in them, so a machine should have `SPARE` more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from sipo.bank.adapter import target_layers, widths
from sipo.declare.work import Reckoning
from sipo.models.quantisation import bytes_of
from sipo.settings import Lora
from sipo.settings.model import Quantise

SPARE = 0.1
"""The share of a device's memory that a plan leaves free."""
FAST = 1e9
"""Multiplications of a layer in a forward, above which more rows make a processor no faster (docs/benchmarks.md)."""
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

    def recomputed(self, activations: int) -> int:
        """Bytes a token with gradient checkpointing: every layer's input; of the layer that is computed again, what one
        keeps, and as much for its gradients.
        """
        return self.layers * self.hidden * self.bytes + 2 * activations


def shape(model: PreTrainedModel, dtype: torch.dtype | None = None, quantise: Quantise | None = None) -> Shape:
    """Of a loaded model, or of an outline of it, that is not quantised."""
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


def adapter_parameters(model: PreTrainedModel, lora: Lora) -> int:
    layers = target_layers(model, lora).values()
    return sum(lora.r * sum(widths(layer)) for layer in layers)


def _targets(model: PreTrainedModel, lora: Lora) -> int:
    """How many layers in each block are adapted."""
    return len({name.rsplit(".", 1)[-1] for name in target_layers(model, lora)})


@dataclass(frozen=True)
class Peaks(Reckoning):
    """What the formulas of a stage's memory, in bytes, reckon with; lengths are the longest."""

    model: PreTrainedModel
    of: Shape
    context: int
    judges: Sequence[int]
    """Bytes of the reward models, loaded one at a time."""

    @property
    def whole(self) -> bool:
        return self.config.policies == "full"

    @property
    def policy(self) -> int:
        """Parameters of one."""
        return self.of.parameters if self.whole else adapter_parameters(self.model, self.config.lora)

    @property
    def targets(self) -> int:
        return 0 if self.whole else _targets(self.model, self.config.lora)

    def mounted(self) -> int:
        """Of whole models also a soup, of which there is one at a time."""
        return self.of.weights + self.of.opened + (self.n + self.whole) * self.policy * self.of.bytes

    @property
    def together(self) -> int:
        """Policies that learn in the same steps, as many as were asked for; one where it is auto, which takes no more
        than fit.
        """
        asked = self.config.execution.train_together
        return 1 if asked == "auto" or self.whole else asked

    def gradients(self, policies: int | None = None) -> int:
        """Of every objective, where they are combined."""
        return (policies or self.together) * self.n * self.policy * 4

    def training(self, row: float, policies: int | None = None) -> int:
        """On rows of so many tokens at most, so many policies in the same steps; None is as many as were asked for."""
        policies = policies or self.together
        tokens = max(self.config.execution.train_tokens, int(row))
        of, rank = self.of, self.config.lora.r
        each = of.whole_activations(int(row)) if self.whole else of.activations(rank, self.targets, int(row))
        kept = of.recomputed(each) if self.config.execution.gradient_checkpointing else (of.layers + 1) * each
        # float32 policy, gradient, both moments and the best so far; its copy in the backbone's dtype
        trained = policies * self.policy * (5 * 4 + (0 if self.whole and of.bytes == 4 else of.bytes))
        return of.weights + of.opened + trained + kept * tokens

    def worth_together(self, tokens: float, device: str) -> int:
        """How many policies of so many tokens a step make its products as fast as they get: on a processor until a
        layer has `FAST` multiplications to do, elsewhere until a forward is full.
        """
        full = float(self.config.execution.train_tokens)
        if device == "cpu":
            full = min(full, FAST * self.of.layers / self.of.parameters)
        return math.ceil(full / tokens)

    def scoring(self, row: float) -> int:
        tokens = max(self.config.execution.score_tokens, int(row))
        targets = self.n * self.targets
        return self._asked(self.mounted() + tokens * self.of.activations(self.config.lora.r, targets, int(row)))

    def decoding(self, prompt: float, new: int) -> int:
        of, rows = self.of, self.config.execution.decode_rows
        prompt = min(int(prompt), self.context - new)
        cache = rows * (prompt + new) * of.token_cache
        # A layer's cache is copied when it grows; all prompts pass one layer at a time; logits, and float32 ones twice.
        layer = rows * prompt * of.activations(0, 0, prompt)
        logits = rows * of.vocabulary * (of.bytes + 8)
        return self._asked(self.mounted() + cache + cache // of.layers + layer + logits)

    def _asked(self, peak: int) -> int:
        """Of an engine. The workers of a pool, here all on one device, have the model each, and so has this process."""
        execution = self.config.execution
        return self.of.weights + execution.workers * peak if execution.engine == "pool" else peak


def refining(peaks: Peaks) -> int:
    lengths, longest, review = peaks.lengths, peaks.longest, peaks.config.refine.review_tokens
    reviewing = lengths.prompt + longest + lengths.review_frame
    rewriting = lengths.prompt + longest + review + lengths.rewrite_frame
    return max(peaks.decoding(reviewing, review), peaks.decoding(rewriting, longest))


def judging(peaks: Peaks) -> int:
    return max((peaks.of.weights + each for each in peaks.judges), default=0)


def fine_tuning(peaks: Peaks) -> int:
    """With gradient checkpointing and nothing quantised, always; all parameters have float32 copies where all learn."""
    sft, model, of = peaks.config.sft, peaks.model, peaks.of
    if sft is None:
        return 0
    tokens = sft.batch_size * sft.max_tokens
    rank, targets = (sft.lora.r, _targets(model, sft.lora)) if sft.lora else (0, 0)
    kept = tokens * of.recomputed(of.activations(rank, targets, sft.max_tokens))
    if sft.lora:
        return of.parameters * of.bytes + adapter_parameters(model, sft.lora) * 4 * 4 + kept
    copies = of.bytes if of.bytes < 4 else 0  # autocast's
    return of.parameters * (4 * 4 + copies) + kept
