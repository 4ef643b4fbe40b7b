"""What learns: its recipe, its optimizer, its record, and what it is called."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from sipo.errors import SipoError
from sipo.finite import NotFiniteError, finite, infinite_tensor
from sipo.progress import Advance


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


Bar = Callable[[int, int], AbstractContextManager[Advance]]
"""bar(steps, done) shows, for the time of a training, how far it is."""


def no_warning(line: str) -> None:
    pass


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
    warn: Callable[[str], None] = no_warning
    """Is given the line of what ends it, while others that learn in the same steps go on."""
    bar: Bar = no_bar


NAMELESS = Job()


def steps_of(examples: int, settings: Settings) -> int:
    return math.ceil(examples / settings.batch_size) * settings.epochs


class Learner:
    """Parameters under training, with all that is theirs alone, whoever else learns in the same steps: the optimizer
    and its schedule, the order of the examples, the record of every step, the best epoch, and what ended it early.

    AdamW, linear warm-up, cosine decay. Warm-up takes the share `warmup` of the steps, rounded up as in transformers,
    but never all.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        examples: int,
        recipe: Recipe,
        job: Job = NAMELESS,
        *,
        validated: bool = False,
    ) -> None:
        """`validated`: is it measured before the first step and after each epoch? Raises SipoError for a rate that
        float32 does not hold.
        """
        settings, lr = recipe.settings, recipe.lr
        if not 10 * lr < torch.finfo(torch.float32).max:  # AdamW's first step is lr / (1 - 0.9)
            raise SipoError(f"{job.name}: a learning rate of {lr:g} is too large for float32; {job.way_out}")
        self.parameters, self.examples, self.recipe, self.job = parameters, examples, recipe, job
        self.validated = validated
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=settings.weight_decay)
        self.steps = steps_of(examples, settings)
        warmup = min(math.ceil(settings.warmup * self.steps), self.steps - 1)  # the first of its steps has a rate of 0
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, warmup, self.steps)
        self.history: list[dict[str, float]] = []
        self.start: float | None = None
        self.best_loss = math.inf
        self.best: list[Tensor] | None = None
        self.failure: str | None = None
        """The line that says which of its numbers is not finite; nothing is learned from there on."""
        self._order = lru_cache(maxsize=1)(self._shuffled)

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.history)

    @property
    def learns(self) -> bool:
        return self.failure is None and self.step < self.steps

    @property
    def batch(self) -> list[int]:
        """The examples of the next step, by index: a function of the recipe and the step alone."""
        size = self.recipe.settings.batch_size
        epoch, place = divmod(self.step, self._steps_an_epoch)
        return self._order(epoch)[place * size : (place + 1) * size]

    @property
    def measured_next(self) -> bool:
        """Does the next step end an epoch after which it is validated?"""
        return self.validated and (self.step + 1) % self._steps_an_epoch == 0

    def begin(self, validation_loss: float) -> None:
        """As it is before the first step."""
        self.start = validation_loss
        with self._failing():
            finite(self.start, f"{self.job.name}: validation loss before the first step", self.job.way_out)
            self._keep(self.start)

    def update(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Take a step along the gradients, which are those of the whole batch by now, and forget them; returns its
        record. One that is not finite is no step.
        """
        record = {"step": self.step + 1, "epoch": self.step // self._steps_an_epoch + 1, **numbers}
        with self._failing():
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.settings.max_grad_norm)
            finite({**record, "gradient norm": float(norm)}, self._where(), self.job.way_out)
            self.optimizer.step()
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.step == 0 and self.start is not None:
            record["start_validation_loss"] = self.start
        return record

    def close(self, record: dict[str, float], validation_loss: float | None = None) -> None:
        """The step is over, and with a validation loss its epoch."""
        with self._failing():
            if validation_loss is not None:
                finite(validation_loss, f"{self._where()}: validation loss", self.job.way_out)
                record["validation_loss"] = validation_loss
                self._keep(validation_loss)
            self.history.append(record)
            if self.job.watch:
                self.job.watch(record)

    def check(self, loss: float, what: str) -> None:
        """A loss that is not finite ends it."""
        with self._failing():
            finite(loss, what, self.job.way_out)

    def finish(self) -> None:
        """Be as after the best epoch, where that was asked for."""
        if self.failure is not None:
            return
        if infinite_tensor(("", parameter) for parameter in self.parameters) is not None:
            where = f"{self.job.name}, step {self.steps} of {self.steps}"
            self.failure = f"{where}: a parameter is no finite number; {self.job.way_out}"
        elif self.best is not None:
            self._set(self.best)

    def state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in STATE},
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be as when `state` was taken; the job is told of all steps until then."""
        for name in STATE:
            setattr(self, name, state[name])
        self._set(state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for record in self.history if self.job.watch else ():
            self.job.watch(record)  # type: ignore[misc]

    @property
    def _steps_an_epoch(self) -> int:
        return self.steps // self.recipe.settings.epochs

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(self.examples, generator=torch.Generator().manual_seed(self.recipe.seed + epoch)).tolist()

    def _keep(self, loss: float) -> None:
        if self.recipe.keep_best and loss < self.best_loss:
            self.best_loss, self.best = loss, [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def _where(self) -> str:
        return f"{self.job.name}, step {self.step + 1} of {self.steps}"

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as problem:
            self.failure = str(problem)


STATE = ("history", "start", "best_loss", "best", "failure")
"""What a learner keeps beside its tensors."""
