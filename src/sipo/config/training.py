"""Everything that trains parameters."""

from typing import Annotated, Literal

from pydantic import Field

from sipo.section import Fraction, NotNegative, Positive, Rate, Section, Whole

Epochs = Annotated[Whole, Field(gt=0, le=10_000)]


class Lora(Section):
    r: Annotated[Whole, Field(gt=0, le=16_384)] = 64
    alpha: Rate = 64.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The last names of the layers that are adapted; null takes the model's layers of attention."""


class Sft(Section):
    """Supervised fine-tuning of the backbone on all responses of the training rows, before everything else."""

    enabled: bool = True
    lora: Lora | None = None
    """Train an adapter and merge it into the backbone; null trains all parameters."""
    lr: Rate = 1e-4
    epochs: Epochs = 3
    batch_size: Positive = 1
    accumulate: Positive = 2
    """Responses in a forward, and forwards an optimizer step."""
    max_tokens: Positive = 2048
    """Of prompt and response together; a longer response is cut, and then carries no end token."""
    warmup: Fraction = 0.1
    weight_decay: NotNegative = 0.05


class Training(Section):
    beta: Rate = 0.1
    lr: Rate | dict[str, Rate] = 5e-4
    """One rate, or one for each objective."""
    epochs: Epochs = 3
    batch_size: Positive = 8
    """Prompts an optimizer step."""
    warmup: Fraction = 0.1
    weight_decay: NotNegative = 0.05
    max_grad_norm: Rate = 1.0

    def lr_of(self, objective: str) -> float:
        return self.lr[objective] if isinstance(self.lr, dict) else self.lr


class Align(Training):
    checkpoint: Literal["best", "last"] = "best"
    """Keep the adapter of the epoch with the lowest validation loss, or the last one."""
