"""How fast this machine is at each kind of a run's work, measured for some seconds on the run's own model and rows."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from sipo.bank.kinds import new_policy
from sipo.declare.work import Work, forwards
from sipo.decoding import Request
from sipo.decoding.batch import Batch
from sipo.decoding.mixture import at_mod
from sipo.decoding.reading import prefill
from sipo.decoding.sampling import next_tokens
from sipo.engines.fitting import rows_asked, tokens_for
from sipo.errors import SipoError
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.memory import is_full
from sipo.ranks import apart
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, train
from sipo.weights import corners

if TYPE_CHECKING:
    from sipo.task import Task

Row = TypeVar("Row")
Clock = Callable[[], float]
"""Seconds, from anywhere."""
KINDS = ("reading", "decoding", "scoring", "training")
"""As `Work` has them."""
MOST = 4096
"""Rows that are measured on."""
SECONDS = 10.0
"""For all kinds together, about."""


@dataclass(frozen=True)
class Pace:
    """Tokens a second through the backbone, all rows of a batch together, for each kind of work."""

    reading: float
    decoding: float
    scoring: float
    training: float

    @classmethod
    def of(cls, tokens_per_second: float | Mapping[str, float]) -> "Pace":
        """One number for all kinds, or one for each. Raises SipoError for what is neither."""
        if not isinstance(tokens_per_second, Mapping):
            tokens_per_second = dict.fromkeys(KINDS, tokens_per_second)
        if sorted(tokens_per_second) != sorted(KINDS):
            named = ",".join(f"{kind}=N" for kind in KINDS)
            raise SipoError(f"--tokens-per-second: give one number, or {named}")
        for value in tokens_per_second.values():
            if not 0 < value < math.inf:
                raise SipoError(f"--tokens-per-second {value:g}: give a number above 0")
        return cls(**tokens_per_second)

    def seconds(self, work: Work) -> float:
        """What the work takes, without judges' models and what asks no model."""
        return sum(getattr(work, kind) / getattr(self, kind) for kind in KINDS)

    def __str__(self) -> str:
        if len(set(vars(self).values())) == 1:
            return f"at {self.reading:g} tokens a second"
        each = ", ".join(f"{kind} {getattr(self, kind):,.0f}" for kind in KINDS)
        return f"at so many tokens a second: {each}"


def rate(call: Callable[[], object], tokens: float, seconds: float, clock: Clock) -> float:
    """Tokens a second of what computes so many in a call, called until so many seconds are over."""
    began, calls = clock(), 0
    while True:
        call()
        calls += 1
        if (spent := clock() - began) >= seconds:
            return calls * tokens / max(spent, 1e-9)


def measured(task: "Task", seconds: float = SECONDS, clock: Clock = time.perf_counter) -> Pace:
    """Of this process on the run's model, with fresh adapters and its first training rows: reading and decoding as MOD
    does, scoring under every policy, steps of DPO. Changes nothing that the run computes.
    """
    share = seconds / (len(KINDS) + 1)
    groups = [task.group(row) for row in task.splits.train[:MOST]]
    config, bank, n = task.config, task.bank, len(task.objectives)
    policies = [new_policy(bank.model, config.policies, config.lora, seed) for seed in range(n)]
    requests = [Request(group.prompt, at_mod((1 / n,) * n)) for group in groups]

    def read(some: list[Request]) -> Batch:
        batch = prefill(bank, some)
        batch.logits[0, 0].item()  # wait for what a device computes
        return batch

    def prompts(some: list[Request]) -> int:
        return n * sum(len(each.prompt) for each in some)

    with bank.mounted(policies), torch.inference_mode():
        first = requests[:1]
        read(first)  # what is made at the first call only
        room = share * rate(lambda: read(first), prompts(first), 0, clock)
        asked = requests[: min(len(_some(groups, room)), max(1, rows_asked(config.execution) // n))]
        reading = _held(asked, lambda some: rate(lambda: read(some), prompts(some), share, clock))

        def decode(some: list[Request]) -> float:
            step = _Steps(task, lambda: read(some))
            step()
            return rate(step, n * len(some), share, clock)

        decoding = _held(asked, decode)
        rows = [
            (group, corner)
            for group in _some(groups, min(room, tokens_for(config.execution, None, task.span(), 1)) / n)
            for corner in corners(n)
        ]

        def score(some: list[tuple[Group, tuple[float, ...]]]) -> float:
            each = sum(len(group.prompt) + len(response) for group, _ in some for response in group.responses)
            return rate(lambda: score_rows(bank, some), each, share, clock)

        scoring = _held(rows, score)
    settings, worth = config.align.model_copy(update={"epochs": 1}), forwards(config)
    batch = _some(groups, room / worth)[: settings.batch_size]
    examples = [Example(group, (0.0, 0.0), ((1, 0, 1),)) for group in batch]
    loss = Loss(settings.beta, token_budget=task.train_tokens())

    def learn() -> None:
        with apart():
            train(bank, policies[0], Examples(examples), Recipe(settings, 1e-9, 0), loss)

    training = rate(learn, worth * sum(group.tokens for group in batch), share, clock)
    return Pace(reading, decoding, scoring, training)


def _held(rows: list[Row], measure: Callable[[list[Row]], float]) -> float:
    """measure(rows), or of the first half of them, a quarter, .., as many as the memory holds: so the run does."""
    while True:
        try:
            return measure(rows)
        except Exception as error:
            if len(rows) == 1 or not is_full(error):
                raise
        rows = rows[: len(rows) // 2]


class _Steps:
    """A call decodes the next token of every row; where the model's context is full, the prompts are read anew."""

    def __init__(self, task: "Task", start: Callable[[], Batch]) -> None:
        self.task, self.start, self.left = task, start, 0

    def __call__(self) -> None:
        task = self.task
        if not self.left:
            self.batch, self.left = self.start(), task.backbone.context - task.config.data.max_prompt_tokens
        batch = self.batch
        half = torch.full((len(batch),), 0.5, dtype=torch.float64)
        # Where logits are not finite there is none, and any takes as long: the stage that decodes will say so.
        chosen = next_tokens(batch.scores(), half, task.config.decoding).clamp_min(0)
        chosen.tolist()
        batch.advance(task.bank, chosen[batch.owner])
        self.left -= 1


def _some(groups: list[Group], tokens: float) -> list[Group]:
    """The first that have so many tokens together, or one."""
    some, held = groups[:1], groups[0].tokens
    for group in groups[1:]:
        held += group.tokens
        if held > tokens:
            break
        some = [*some, group]
    return some
