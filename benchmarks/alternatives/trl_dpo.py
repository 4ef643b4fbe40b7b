"""TRL's DPOTrainer: one training an objective, the reference from the model without its adapter."""

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

from benchmarks.alternatives.stepping import Tokens
from benchmarks.model import twin
from sipo.bank import Adapter, save_adapter
from sipo.models.load import Backbone
from sipo.settings import Training


@dataclass(frozen=True)
class Pairs:
    """(prompt, preferred, other) as token ids, in the order that they are trained on."""

    rows: tuple[tuple[Tokens, Tokens, Tokens], ...]


class _Trainer(DPOTrainer):
    """Takes token ids as they are, and makes precomputed references when training starts, so that both are timed."""

    later: tuple[Any, ...] | None = None
    scratch: tempfile.TemporaryDirectory[str]
    """Lives as long as the trainer."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *arguments: Any) -> Dataset:
        self.later = arguments
        return arguments[0]

    def references_and_train(self) -> None:
        if self.later is not None:
            self.train_dataset = super()._precompute_ref_logps(*self.later)
        self.train()


def trainer(
    backbone: Backbone,
    start: Adapter,
    pairs: Pairs,
    settings: Training,
    lr: float,
    *,
    pairs_a_step: int,
    precompute: bool = False,
    alpha: float = 0.0,
    from_base: bool = True,
) -> _Trainer:
    """Ready to train a copy of `start` against the base, or (realignment) against a frozen copy of itself."""
    mixed = backbone.model.dtype != torch.float32
    # Around a model that has its adapter already, TRL takes a frozen copy of that adapter as the reference.
    options: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, alpha]} if alpha else {}
    scratch = tempfile.TemporaryDirectory(prefix="bench-trl-")
    arguments = DPOConfig(
        output_dir=scratch.name, beta=settings.beta, max_length=None, learning_rate=lr,
        num_train_epochs=settings.epochs, per_device_train_batch_size=pairs_a_step,
        train_sampling_strategy="sequential", lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * -(-len(pairs.rows) // pairs_a_step) * settings.epochs),
        weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm, optim="adamw_torch",
        use_cpu=backbone.device.type == "cpu", bf16=mixed, report_to="none", gradient_checkpointing=False,
        disable_tqdm=True, save_strategy="no", logging_steps=1, precompute_ref_log_probs=precompute,
        dataloader_pin_memory=backbone.device.type == "cuda", **options,
    )  # fmt: skip
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = Dataset.from_list([dict(zip(names, map(list, row), strict=True)) for row in pairs.rows])
    tokenizer = copy.deepcopy(backbone.tokenizer)
    base = twin(backbone.model)
    if from_base:
        targets = sorted({name.rsplit(".", 1)[-1] for name in start.factors})
        lora = LoraConfig(
            r=start.rank,
            lora_alpha=start.scaling * start.rank,  # type: ignore[arg-type]
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        made = _Trainer(model=base, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    else:
        save_adapter(start, Path(scratch.name) / "start", backbone.source)
        based = PeftModel.from_pretrained(base, Path(scratch.name) / "start", is_trainable=True)
        made = _Trainer(model=based, args=arguments, train_dataset=data, processing_class=tokenizer)
    made.remove_callback(PrinterCallback)
    made.scratch = scratch
    model = made.model
    assert model is not None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                layer = name.removeprefix("base_model.model.").split(".lora_")[0]
                parameter.copy_(start.factors[layer]["lora_B" in name])
    return made


def losses(trained: _Trainer) -> list[float]:
    return [record["loss"] for record in trained.state.log_history if "loss" in record]


def train_one_after_the_other(trainers: Sequence[_Trainer]) -> list[list[float]]:
    """One training an objective; the loss of every step."""
    for each in trainers:
        each.references_and_train()
    return [losses(each) for each in trainers]
