"""Stage sft: the backbone learns all responses of the training rows before any preference (SIPO, section 2).

Writes `model`, an ordinary model folder that every later stage stands on, and `training.jsonl`. Trained by TRL, on
token ids from the codec that every other stage reads and writes with, so nothing is encoded twice in two ways.
"""

import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from sipo.bank.adapter import attention_modules, target_layers
from sipo.bank.everywhere import forget
from sipo.commands import install_extra
from sipo.decoding import seed_of
from sipo.disk.content import flaw_in, seal_of
from sipo.disk.damage import DamageError, note
from sipo.disk.journal import FOLDER
from sipo.disk.publishing import remove, sync
from sipo.disk.tables import read_checked, write_checked, write_records
from sipo.errors import SipoError
from sipo.finite import NotFiniteError, finite, infinite_tensor
from sipo.models.load import attention_of
from sipo.models.locate import origin_of
from sipo.models.pretrained import Origin, read_config, read_tokenizer, read_weights
from sipo.progress import Advance
from sipo.ranks import current, together
from sipo.settings import Model, Sft
from sipo.task import Task
from sipo.training.learner import Checkpoint

Demonstration = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt and its response, as token ids."""
WHOLE = "whole.json"
"""Written into a checkpoint at its end: the digests of its files."""


def sft(task: Task, folder: Path) -> Path:
    """The model's folder. Begins again from the newest whole checkpoint where an earlier try left one."""
    settings = task.config.sft or Sft()
    plan, tokenizer = _plan(task, settings, demonstrations(task), folder / FOLDER / "sft"), task.codec.tokenizer
    task.site.stand_on(task.model)  # frees the frozen copy: this stage trains one of its own
    with task.progress.track("supervised fine-tuning", plan.steps, unit="steps") as advance:
        try:
            trainer, tokens = together(_fine_tune, plan, watch=_Watch(advance, task.progress.metric))
        except NotFiniteError:
            remove(plan.checkpoints.path)  # they would end every later try the same way, whatever was to blame
            raise
    task.site.count(tokens)  # padding included
    history = [record for record in trainer.state.log_history if "loss" in record]
    model = trainer.model.merge_and_unload() if settings.lora else trainer.model
    name = infinite_tensor(model.to(plan.dtype).named_parameters())
    if name:
        remove(plan.checkpoints.path)
        raise SipoError(f"sft: {name} is not finite after the last step; lower sft.lr, or set model.dtype to float32")
    remove(folder / "model")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_records(folder / "training.jsonl", [_step(record) for record in history])
    columns = ["responses", "steps", "first loss", "last loss"]
    ends = [history[0]["loss"], history[-1]["loss"]]
    task.progress.table("fine-tuning, loss in nats a token", columns, [[len(plan.examples), plan.steps, *ends]])
    del trainer, model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return folder / "model"


def demonstrations(task: Task) -> list[Demonstration]:
    """(prompt, response) as token ids, each distinct one once, in the order of the training rows."""
    limit = min((task.config.sft or Sft()).max_tokens, task.backbone.context)
    found: dict[Demonstration, None] = {}
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


@dataclass(frozen=True)
class _Plan:
    """All that a process must know to take part."""

    model: Model
    settings: Sft
    examples: Sequence[Demonstration]
    dtype: torch.dtype
    device: str
    seeds: tuple[int, int]
    """Of the order of the examples, and of a fresh adapter."""
    checkpoints: Checkpoint

    @property
    def steps(self) -> int:
        batches = math.ceil(len(self.examples) / self.settings.batch_size)
        return math.ceil(batches / self.settings.accumulate) * self.settings.epochs


def _plan(task: Task, settings: Sft, examples: Sequence[Demonstration], folder: Path) -> _Plan:
    seeds = seed_of(task.config.seed, "sft") % 2**32, seed_of(task.config.seed, "sft", "adapter") % 2**32
    checkpoints = Checkpoint(folder, task.config.execution.checkpoint_seconds)
    backbone = task.backbone
    return _Plan(task.model, settings, examples, backbone.model.dtype, backbone.device.type, seeds, checkpoints)


def _fine_tune(plan: _Plan, watch: "_Watch | None" = None) -> tuple[Any, int]:
    """The trainer when it is through, and the tokens that went through the model. `watch` tells people."""
    forget()
    watch = watch or _Watch(lambda units, **_: None, lambda **_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL and PEFT use names that transformers has new ones for
        trainer = _trainer(plan)
        trainer.add_callback(watch)
        trainer.add_callback(_Checkpoints(plan.checkpoints))
        trainer.train(resume_from_checkpoint=current().agreed(lambda: _newest(plan.checkpoints.path)))
    return trainer, int(trainer.state.num_input_tokens_seen - watch.seen_before)


def _trainer(plan: _Plan) -> Any:
    check_trl()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    ranks, settings, dtype = current(), plan.settings, plan.dtype
    each = math.ceil(settings.batch_size / ranks.count)
    filled = Shares(len(plan.examples), settings.batch_size, each * ranks.count, plan.seeds[0])
    examples = [*plan.examples, FILLER] if ranks.count > 1 else plan.examples

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, *given: Any) -> Any:
            return filled if ranks.count > 1 else super()._get_train_sampler(*given)

    origin = origin_of(plan.model)
    arguments = SFTConfig(
        output_dir=str(plan.checkpoints.path),
        learning_rate=settings.lr,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=settings.accumulate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        seed=plan.seeds[0],
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=plan.device == "cpu",
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
        arguments._n_gpu = 1  # a process has one GPU, as in every other stage
    trainer = Trainer(
        model=_trainable(origin, settings, dtype, plan.seeds[1]),
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


FILLER = ((0,), ())
"""An example without a response, which no loss counts."""


class Shares(Sampler[int]):
    """The order that one process takes, in rounds of a batch, each filled up with the number behind the last example so
    that all ranks have parts of one size.
    """

    def __init__(self, examples: int, batch: int, filled: int, seed: int) -> None:
        """`filled` is the batch's size then."""
        self.examples, self.batch, self.filled, self.seed = examples, batch, filled, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.examples / self.batch) * self.filled

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)  # as accelerate's own sampler
        order = torch.randperm(self.examples, generator=generator).tolist()
        for start in range(0, self.examples, self.batch):
            batch = order[start : start + self.batch]
            yield from batch + [self.examples] * (self.filled - len(batch))


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

    def __init__(self, where: Checkpoint) -> None:
        self.folder, self.seconds, self.saved = where.path, where.seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = current().agreed(lambda: time.monotonic() - self.saved >= self.seconds)
        if due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        current().meet()  # every rank writes the state of its random numbers
        if current().rank == 0:
            newest = self.folder / f"checkpoint-{state.global_step}"
            sync(newest)
            write_checked(newest / WHOLE, {"files": seal_of(newest)})
            for other in self.folder.glob("checkpoint-*"):
                if other != newest:
                    remove(other)
        self.saved = time.monotonic()
