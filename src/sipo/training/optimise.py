"""The optimisation loop, for policies and for reward models: it can be killed at any step and goes on from its file."""

import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from sipo.disk.damage import note
from sipo.disk.publishing import replacing
from sipo.errors import SipoError
from sipo.finite import NotFiniteError, finite, infinite_tensor
from sipo.progress import Advance

DIGEST = hashlib.sha256().digest_size
"""Bytes of a digest, with which a checkpoint's file begins."""


class Settings(Protocol):
    """How parameters are trained; `sipo.settings.Training` is one."""

    @property
    def epochs(self) -> int: ...

    @property
    def batch_size(self) -> int:
        """Examples an optimizer step."""
        ...

    @property
    def warmup(self) -> float:
        """Share of the steps."""
        ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def max_grad_norm(self) -> float: ...


@dataclass(frozen=True)
class Recipe:
    """How parameters learn: all that, beside the loss and the examples, decides what comes of it."""

    settings: Settings
    lr: float
    """The highest rate, at the end of the warm-up."""
    seed: int
    """Of the order of the examples."""
    keep_best: bool = False
    """End as after the epoch with the lowest validation loss, or as at the start where none is lower."""


def no_bar(steps: int, done: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda units, **numbers: None)


@dataclass(frozen=True)
class Checkpoint:
    """Where the state is kept, and how many seconds pass between two of them: what a crash costs at most."""

    path: Path
    seconds: float = 60.0


@dataclass(frozen=True)
class Job:
    """One training among others, for people and for the disk: what is learned does not depend on it."""

    name: str = "training"
    """What is trained, at the head of an error's line."""
    way_out: str = "lower the learning rate"
    """What to do where a number is not finite."""
    checkpoint: Checkpoint | None = None
    watch: Callable[[dict[str, float]], None] | None = None
    """Is given each step's record, those before a crash again."""
    bar: Callable[[int, int], AbstractContextManager[Advance]] = no_bar
    """bar(steps, done) shows, for the time of the training, how far it is."""


NAMELESS = Job()


def steps_of(examples: int, settings: Settings) -> int:
    return math.ceil(examples / settings.batch_size) * settings.epochs


def optimise(
    parameters: Sequence[Tensor],
    examples: int,
    backward: Callable[[list[int]], dict[str, float]],
    recipe: Recipe,
    *,
    validate: Callable[[], float] | None = None,
    job: Job = NAMELESS,
) -> list[dict[str, float]]:
    """Train the parameters in place by AdamW with linear warm-up and cosine decay; returns a record for each step.

    `backward` adds the gradients of the mean loss of these examples, given by index, and returns numbers for the
    record, the `loss` among them; it must be the same function of the parameters in every try. `validate` is asked
    before the first step (`start_validation_loss` in its record) and after each epoch, the smaller the better. Warm-up
    takes the share `warmup` of the steps, rounded up as in transformers, but never all. With a checkpoint, a killed
    training that is called again ends as if nothing had happened, bit by bit.

    Raises NotFiniteError, with the job's name, the step and the way out, for the first loss, gradient norm or parameter
    that is not finite: nothing is learned from it, and nothing kept.
    """
    settings, lr, name, way_out = recipe.settings, recipe.lr, job.name, job.way_out
    checkpoint, watch = job.checkpoint, job.watch
    if not 10 * lr < torch.finfo(torch.float32).max:  # AdamW's first step is lr / (1 - 0.9)
        raise SipoError(f"{name}: a learning rate of {lr:g} is too large for float32; {way_out}")
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=settings.weight_decay)
    steps = steps_of(examples, settings)
    steps_an_epoch = steps // settings.epochs
    warmup = min(math.ceil(settings.warmup * steps), steps - 1)  # the first of its steps has a rate of 0
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    state: dict[str, Any] = {"step": 0, "history": [], "start": None, "best_loss": math.inf, "best": None}

    def keep(loss: float) -> None:
        if recipe.keep_best and loss < state["best_loss"]:
            state["best_loss"], state["best"] = loss, [p.detach().clone() for p in parameters]

    if checkpoint and (found := _restore(checkpoint.path, parameters, optimizer, schedule)):
        state = found
        for record in state["history"] if watch else ():
            watch(record)  # type: ignore[misc]

    @lru_cache(maxsize=1)
    def order(epoch: int) -> list[int]:
        return torch.randperm(examples, generator=torch.Generator().manual_seed(recipe.seed + epoch)).tolist()

    if state["step"] == 0 and validate:
        state["start"] = validate()
        finite(state["start"], f"{name}: validation loss before the first step", way_out)
        keep(state["start"])
    saved = time.monotonic()
    with job.bar(steps, state["step"]) as advance:
        for step in range(state["step"], steps):
            epoch, place = divmod(step, steps_an_epoch)
            batch = order(epoch)[place * settings.batch_size : (place + 1) * settings.batch_size]
            record = {"step": step + 1, "epoch": epoch + 1, **backward(batch)}
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            finite({**record, "gradient norm": float(norm)}, f"{name}, step {step + 1} of {steps}", way_out)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if step == 0 and state["start"] is not None:
                record["start_validation_loss"] = state["start"]
            if place + 1 == steps_an_epoch and validate:
                record["validation_loss"] = loss = validate()
                finite(loss, f"{name}, step {step + 1} of {steps}: validation loss", way_out)
                keep(loss)
            state["history"].append(record)
            state["step"] = step + 1
            if watch:
                watch(record)
            advance(1, loss=record["loss"])
            if checkpoint and time.monotonic() - saved >= checkpoint.seconds:
                _save(checkpoint.path, state, parameters, optimizer, schedule)
                saved = time.monotonic()
    if infinite_tensor(("", parameter) for parameter in parameters) is not None:
        raise NotFiniteError(f"{name}, step {steps} of {steps}: a parameter is no finite number; {way_out}")
    if state["best"] is not None:
        with torch.no_grad():
            for parameter, best in zip(parameters, state["best"], strict=True):
                parameter.copy_(best)
    return state["history"]


def _save(path: Path, state: dict[str, Any], parameters: Sequence[Tensor], optimizer: Any, schedule: Any) -> None:
    buffer = io.BytesIO()  # given a file, torch.save hides why the disk refused it
    torch.save(
        {
            **state,
            "parameters": [parameter.detach() for parameter in parameters],
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        },
        buffer,
    )
    with replacing(path) as scratch, scratch.open("wb") as stream:
        stream.write(hashlib.sha256(buffer.getbuffer()).digest())
        stream.write(buffer.getbuffer())


def _restore(path: Path, parameters: Sequence[Tensor], optimizer: Any, schedule: Any) -> dict[str, Any] | None:
    """The state that was saved, if there is any that is whole."""
    if not path.exists():
        return None
    content = path.read_bytes()
    digest, saved_state = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(saved_state).digest() != digest:
        note(f"{path}: the saved state of a training is damaged; that training begins again")
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(saved_state), weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(parameters, state.pop("parameters"), strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state.pop("optimizer"))
    schedule.load_state_dict(state.pop("schedule"))
    return state
