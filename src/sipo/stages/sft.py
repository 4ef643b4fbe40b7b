"""Stage sft: the backbone learns all responses of the training rows before any preference (SIPO, section 2).

Writes `model`, an ordinary model folder that every later stage stands on, and `training.jsonl`. Trained by TRL, on
token ids from the codec that every other stage reads and writes with, so nothing is encoded twice in two ways.
"""

import gc
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from sipo.bank.adapter import attention_modules, target_layers
from sipo.commands import install_extra
from sipo.decoding import seed_of
from sipo.disk.content import flaw_in, seal_of
from sipo.disk.damage import DamageError, note
from sipo.disk.journal import FOLDER
from sipo.disk.publishing import remove, sync
from sipo.disk.tables import read_checked, write_checked, write_records
from sipo.errors import SipoError
from sipo.finite import finite, infinite_tensor
from sipo.models.load import attention_of
from sipo.models.locate import origin_of
from sipo.models.pretrained import Origin, read_config, read_tokenizer, read_weights
from sipo.progress import Advance
from sipo.settings import Sft
from sipo.task import Task

WHOLE = "whole.json"
"""Written into a checkpoint at its end: the digests of its files."""


def sft(task: Task, folder: Path) -> Path:
    """The model's folder. Begins again from the newest whole checkpoint where an earlier try left one."""
    settings = task.config.sft or Sft()
    examples = demonstrations(task)
    dtype, device, tokenizer = task.backbone.model.dtype, task.backbone.device, task.codec.tokenizer
    task.site.stand_on(task.model)  # frees the frozen copy: this stage trains one of its own
    checkpoints = folder / FOLDER / "sft"
    steps = math.ceil(math.ceil(len(examples) / settings.batch_size) / settings.accumulate) * settings.epochs
    with warnings.catch_warnings(), task.progress.track("supervised fine-tuning", steps, unit="steps") as advance:
        warnings.simplefilter("ignore", FutureWarning)  # TRL and PEFT use names that transformers has new ones for
        trainer = _trainer(task, settings, examples, dtype, device, checkpoints)
        watch = _Watch(advance, task.progress.metric)
        trainer.add_callback(watch)
        trainer.add_callback(_Checkpoints(checkpoints, task.config.execution.checkpoint_seconds))
        trainer.train(resume_from_checkpoint=_newest(checkpoints))
    task.site.count(int(trainer.state.num_input_tokens_seen - watch.seen_before))  # padding included
    history = [record for record in trainer.state.log_history if "loss" in record]
    model = trainer.model.merge_and_unload() if settings.lora else trainer.model
    name = infinite_tensor(model.to(dtype).named_parameters())
    if name:
        raise SipoError(f"sft: {name} is not finite after the last step; lower sft.lr, or set model.dtype to float32")
    remove(folder / "model")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_records(folder / "training.jsonl", [_step(record) for record in history])
    columns = ["responses", "steps", "first loss", "last loss"]
    ends = [history[0]["loss"], history[-1]["loss"]]
    task.progress.table("fine-tuning, loss in nats a token", columns, [[len(examples), steps, *ends]])
    del trainer, model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return folder / "model"


def demonstrations(task: Task) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, response) as token ids, each distinct one once, in the order of the training rows."""
    limit = min((task.config.sft or Sft()).max_tokens, task.backbone.context)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
    for row in task.splits.train:
        prompt = task.prompt_tokens(row)
        for response in row.responses:
            found[prompt, tuple(task.codec.encode_response(response, limit - len(prompt)))] = None
    return list(found)


def check_trl() -> None:
    """Raise SipoError where TRL is not installed."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise SipoError(f"sft: needs TRL ({error}); `{install_extra('sft')}`") from None


def _trainer(
    task: Task,
    settings: Sft,
    examples: list[tuple[tuple[int, ...], tuple[int, ...]]],
    dtype: torch.dtype,
    device: torch.device,
    folder: Path,
) -> Any:
    check_trl()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    origin = origin_of(task.model)
    arguments = SFTConfig(
        output_dir=str(folder),
        learning_rate=settings.lr,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        seed=seed_of(task.config.seed, "sft") % 2**32,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        activation_checkpointing=True,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a loss that is none is told as the mean of those before
        include_num_input_tokens_seen="all",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process, one GPU, as in every other stage
    trainer = SFTTrainer(
        model=_trainable(origin, settings, dtype, seed_of(task.config.seed, "sft", "adapter") % 2**32),
        args=arguments,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [[*prompt, *response] for prompt, response in examples],
                "labels": [[-100] * len(prompt) + list(response) for prompt, response in examples],
            }
        ),
        # A copy, because the trainer gives it a padding token.
        processing_class=read_tokenizer(origin),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def _trainable(origin: Origin, settings: Sft, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """With LoRA a frozen backbone in its own dtype; without, float32 weights, since in bf16 rounding eats updates."""
    kept = dtype if settings.lora else torch.float32
    attention = attention_of(read_config(origin))
    model, _ = read_weights(origin, kept, attn_implementation=attention)
    if settings.lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = settings.lora
    every = lora.target_modules or attention_modules(model)
    targets = list(every if lora.layers == "all" else target_layers(model, lora))
    config = LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, target_modules=targets)  # type: ignore[arg-type]
    return get_peft_model(model, config)  # type: ignore[return-value]


def _newest(folder: Path) -> str | None:
    """The newest whole checkpoint; torn and damaged ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    whole = [each for each in found if _is_whole(each)]
    for each in found:
        if each not in whole[-1:]:
            remove(each)
    return str(whole[-1]) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    if not (checkpoint / WHOLE).exists():
        return False
    try:
        seal = read_checked(checkpoint / WHOLE)["files"]
        flaw = flaw_in(checkpoint, seal, every_byte=True)
    except DamageError as damage:
        flaw = damage.place, damage.why
    if flaw:
        note(f"{flaw[0]}: damaged ({flaw[1]}); fine-tuning goes on from an earlier checkpoint, or begins again")
    return flaw is None


def _step(record: dict[str, Any]) -> dict[str, Any]:
    names = {"step": "step", "epoch": "epoch", "loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
    return {ours: record[theirs] for theirs, ours in names.items() if theirs in record}


class _Watch(TrainerCallback):
    """Tells how far training is."""

    def __init__(self, advance: Advance, metric: Callable[..., None]) -> None:
        self.advance, self.metric = advance, metric
        self.seen_before = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen_before = state.num_input_tokens_seen  # by the tries before
        self.advance(state.global_step, again=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            told = {name: logs[name] for name in ("loss", "grad_norm") if name in logs}
            if args.fp16:  # a scaled gradient may overflow: its step is left out, and the scale lowered
                told.pop("grad_norm", None)
            place = f"sft, step {state.global_step} of {state.max_steps}"
            finite(told, place, "lower sft.lr, or set model.dtype to float32")
            self.metric(**_step({**logs, "step": state.global_step}))


class _Checkpoints(TrainerCallback):
    """Saves every so many seconds; the older checkpoint goes when the new one is whole, never before."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds, self.saved = folder, seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.saved >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        newest = self.folder / f"checkpoint-{state.global_step}"
        sync(newest)
        write_checked(newest / WHOLE, {"files": seal_of(newest)})
        for other in self.folder.glob("checkpoint-*"):
            if other != newest:
                remove(other)
        self.saved = time.monotonic()
