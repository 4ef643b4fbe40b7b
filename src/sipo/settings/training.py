"""Everything that trains parameters."""

from typing import Annotated, Literal

from pydantic import Field

from sipo.settings.section import Fraction, NotNegative, Positive, Rate, Section, Whole

Epochs = Annotated[Whole, Field(gt=0, le=10_000)]


class Lora(Section):
    r: Annotated[Whole, Field(gt=0, le=16_384)] = 64
    """Rank of an adapter."""
    alpha: Rate = 64.0
    """An adapter is scaled by alpha / r."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The last names of the layers that are adapted; null takes the model's layers of attention."""


class Sft(Section):
    """Supervised fine-tuning of the backbone on all responses of the training rows, before everything else."""

    enabled: bool = True
    """False leaves fine-tuning out, with its keys as they are."""
    lora: Lora | None = None
    """`r`, `alpha` and `target_modules` of an adapter that is merged at the end; null trains all parameters, with
    float32 copies."""
    lr: Rate = 1e-4
    """Learning rate."""
    epochs: Epochs = 3
    """Passes over the rows."""
    batch_size: Positive = 1
    """Responses in a forward."""
    accumulate: Positive = 2
    """Forwards an optimizer step."""
    max_tokens: Positive = 2048
    """Of prompt and response together; a longer response is cut, and then carries no end token."""
    warmup: Fraction = 0.1
    """Share of the steps in which the rate rises; it falls as a cosine."""
    weight_decay: NotNegative = 0.05
    """AdamW's."""


class Training(Section):
    beta: Rate = 0.1
    """Of DPO: how near the policy stays to its reference."""
    lr: Rate | dict[str, Rate] = 5e-4
    """Learning rate: a number, or a mapping from objective to number. Whole models (`policies: full`) want far less
    than adapters: 5e-7 to 1e-6, or up to 1e-5 for small ones."""
    epochs: Epochs = 3
    """Passes over the rows."""
    batch_size: Positive = 8
    """Prompts an optimizer step."""
    warmup: Fraction = 0.1
    """Share of the steps, rounded up, in which the rate rises."""
    weight_decay: NotNegative = 0.05
    """AdamW's."""
    max_grad_norm: Rate = 1.0
    """Longer gradients are cut to it."""

    def lr_of(self, objective: str) -> float:
        return self.lr[objective] if isinstance(self.lr, dict) else self.lr


class Align(Training):
    checkpoint: Literal["best", "last"] = "best"
    """Keep the epoch with the lowest validation loss, or the start where none is lower; or the last one."""
