"""What the work needs at least of the backbone: bytes to move and operations to do. Adapters are left out.

A time floor is the larger need of a machine that does nothing else: bytes at the measured copy bandwidth,
operations at the measured matmul ceiling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from benchmarks.hardware import Hardware
from sipo.logprobs.packing import Group


@dataclass(frozen=True)
class Need:
    bytes: float
    operations: float

    def seconds(self, hardware: Hardware) -> dict[str, float]:
        return {
            "floor-bytes": self.bytes / hardware.copy_bytes_per_second,
            "floor-operations": self.operations / hardware.matmul_flops,
        }


@dataclass(frozen=True)
class Shape:
    """A backbone's sizes in weights; bytes are those of its dtype."""

    linear: int
    """Weights of the linear layers but the head."""
    head: int
    kv: int
    """Numbers that a position leaves in the cache."""
    attention: int
    """Operations for one (query, key) pair in all layers: scores and values."""
    width: int
    """Bytes a number."""


def shape_of(model: PreTrainedModel) -> Shape:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Shape(
        linear, head.weight.numel(), 2 * layers * kv_heads * dim, 4 * layers * heads * dim, head.weight.element_size()
    )


def decoding(
    shape: Shape, rows: Sequence[tuple[int, int]], prefilled: Sequence[int] | None = None, batches: int = 1
) -> Need:
    """Each row, (prompt, new), writes `new` tokens behind `prompt` tokens; the last one written is not fed.

    `prefilled` are the lengths of the prompts that need computing, by default every row's. Rows are written in so many
    `batches` one after the other, each of which reads the weights once a step.
    """
    prompts = [prompt for prompt, _ in rows] if prefilled is None else prefilled
    written = [new for _, new in rows]
    contexts = sum(sum(range(prompt + 1, prompt + new)) for prompt, new in rows)
    reads = batches * max(written) * (shape.linear + shape.head) + shape.kv * contexts
    operations = sum(2 * shape.linear * prompt + shape.attention * prompt * (prompt + 1) / 2 for prompt in prompts)
    operations += sum(2 * shape.linear * (new - 1) + 2 * shape.head * new for new in written)
    return Need(shape.width * reads, operations + shape.attention * contexts)


def scoring(shape: Shape, groups: Sequence[Group], batches: int) -> Need:
    """The groups scored once each, every prompt computed once for its responses."""
    tokens = sum(group.tokens for group in groups)
    targets = sum(len(y) for group in groups for y in group.responses)
    pairs = 0.0
    for group in groups:
        prompt = len(group.prompt)
        pairs += prompt * (prompt + 1) / 2 + sum(len(y) * prompt + len(y) * (len(y) + 1) / 2 for y in group.responses)
    operations = 2 * shape.linear * tokens + 2 * shape.head * targets + shape.attention * pairs
    return Need(shape.width * batches * (shape.linear + shape.head), operations)


def training(shape: Shape, groups: Sequence[Group], batches: int) -> Need:
    """One pass forward and one back, to the inputs alone: a frozen layer's weights need no gradient."""
    forward = scoring(shape, groups, batches)
    return Need(2 * forward.bytes, 2 * forward.operations)
