"""Everything that trains parameters."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sipo.settings.section import Fraction, Natural, NotNegative, Positive, Rate, Section, Whole

Epochs = Annotated[Whole, Field(gt=0, le=10_000)]


class Lora(Section):
    r: Annotated[Whole, Field(gt=0, le=16_384)] = 64
    """Rank of an adapter."""
    alpha: Rate = 64.0
    """An adapter is scaled by alpha / r."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The last names of the layers that are adapted; null takes the model's layers of attention."""
    layers: Literal["all", "upper"] | Natural = "all"
    """Which of the model's decoder layers are adapted: all, the upper half, or those from this number on (0 is the
    lowest). What lies below them is computed once for all policies."""


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


TRIED = frozenset({"strengths", "trial_prompts", "keep_range"})
"""Keys of `lr: auto`."""
Ladder = Annotated[tuple[Rate, ...], Field(min_length=1, max_length=8)]


class Training(Section):
    beta: Rate = 0.1
    """Of DPO: the larger, the nearer the policy stays to its reference."""
    lr: Rate | dict[str, Rate] | Literal["auto"] = 5e-4
    """Learning rate: a number, a mapping from objective to number, or auto, which tries `strengths` and takes the best
    on validation rows. Whole models (`policies: full`) want far less than adapters: 5e-7 to 1e-6, or up to 1e-5 for
    small ones."""
    strengths: Ladder = (0.2, 1.0, 5.0)
    """Of `lr: auto`, rising: multiples of 5e-4, for whole models of 1e-6, to train with. One policy for each objective
    and strength."""
    trial_prompts: Positive = 64
    """Of `lr: auto`: at most so many validation prompts are answered for each strength, at every corner and in the
    middle of the weights; rows without rewards are only scored, and all of them are."""
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
        """That was written; auto is none."""
        assert self.lr != "auto"
        return self.lr[objective] if isinstance(self.lr, dict) else self.lr

    @model_validator(mode="after")
    def _strengths_are_read(self) -> Self:
        if self.lr != "auto":
            for key in TRIED & type(self).model_fields.keys():
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is read with lr: auto alone, and lr is written; leave one of them out")
        if any(later <= earlier for earlier, later in pairwise(self.strengths)):
            raise ValueError("strengths: write them rising, each once")
        return self


class Align(Training):
    checkpoint: Literal["best", "last"] = "best"
    """Keep the epoch with the lowest validation loss, or the start where none is lower; or the last one."""
