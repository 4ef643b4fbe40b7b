"""What is served, apart from how it is asked for: runs, their schedulers, and a request as what the model is asked."""

import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sipo.decoding import seed_of
from sipo.errors import SipoError
from sipo.finished.prompts import chat_of
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.serve.metrics import Metrics
from sipo.serve.naming import Named, Served, resolve
from sipo.serve.scheduler import Ask, Room, Scheduler
from sipo.serve.threads import in_passing
from sipo.serve.wire import ApiError, Asked, ChatRequest, CompletionRequest
from sipo.weights import corners


@dataclass(frozen=True)
class Limits:
    rows: int
    """In the batch at once; MOD takes one for each policy with a share."""
    cached: int = 65536
    """Tokens in the batch's cache at once, padding included."""
    waiting: int = 256
    """Answers that may wait for room."""
    tokens: int = 4096
    """Of an answer."""
    seconds: float = 600.0
    """For an answer, waiting included."""
    body: int = 1 << 20
    """Bytes of a request."""


class Service:
    def __init__(self, runs: Sequence[Served], limits: Limits) -> None:
        self.limits, self.runs = limits, {each.name: each for each in runs}
        self.metrics = Metrics()
        self.created = int(time.time())
        self.draining = False
        self.schedulers: dict[str, Scheduler] = {}

    def start(self) -> None:
        """Load the models. Raises SipoError."""
        in_passing(self._load)

    def _load(self) -> None:
        room = Room(self.limits.rows, self.limits.cached, self.limits.waiting)
        for name, served in self.runs.items():
            task = served.run.task
            scheduler = Scheduler(task.bank, task.codec.stops, room)
            at = corners(len(served.run.objectives))[0]
            weights = dict(zip(served.run.objectives, at, strict=True))
            scheduler.start(served.run.at(weights, served.usual).aligned.adapters)
            self.schedulers[name] = scheduler
            self.metrics.gauge(name, partial(_read, scheduler, "waiting"), partial(_read, scheduler, "running"))

    @property
    def ready(self) -> bool:
        return not self.draining and self.healthy

    @property
    def healthy(self) -> bool:
        return bool(self.schedulers) and all(each.alive for each in self.schedulers.values())

    @property
    def idle(self) -> bool:
        return all(each.idle for each in self.schedulers.values())

    def drain(self) -> None:
        """Finish what runs; refuse what waits and what comes."""
        self.draining = True
        for each in self.schedulers.values():
            each.drain()

    def close(self) -> None:
        for each in self.schedulers.values():
            each.close()

    def scheduler(self, named: Named) -> Scheduler:
        return self.schedulers[named.served.name]

    def codec(self, named: Named) -> Codec:
        return named.served.run.task.codec

    def read(self, asked: ChatRequest | CompletionRequest) -> tuple[Named, list[tuple[int, ...]]]:
        """The model that is named, and the prompts as token ids, which takes long where they are long. Raises ApiError
        where they make no sense, or are more than may ever run or wait.
        """
        most = max(1, self.limits.rows, self.limits.waiting)
        if asked.answers > most:
            raise ApiError(400, f"{asked.answers} answers at once are too many here; ask for at most {most}")
        named = resolve(self.runs, asked.model, asked.weights)
        return named, self._prompts(asked, named)

    def asks(
        self, asked: ChatRequest | CompletionRequest, named: Named, prompts: Sequence[tuple[int, ...]]
    ) -> list[Ask]:
        """One for each choice, in order: those of the first prompt, then those of the next. Choice i draws from the
        stream of `generate`'s i-th answer at the seed. Raises ApiError.
        """
        aligned = named.model.aligned
        try:
            decoding = asked.decoding(named.served.run.config.decoding)
            if aligned.best_of:
                aligned.best_of.drawing(decoding)
        except SipoError as error:
            raise ApiError(400, str(error)) from None
        if aligned.best_of and asked.likeliest is not None:
            raise ApiError(400, f"`{named.model.method}` gives the best of several draws, without log-probabilities")
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        until = time.monotonic() + self.limits.seconds
        choices = [prompt for prompt in prompts for _ in range(asked.n or 1)]
        return [
            Ask(
                aligned, prompt, seed_of(seed, "generate", index), decoding, self._limit(asked, named, prompt),
                asked.likeliest, until, self.metrics.watch(named, len(prompt)),
            )
            for index, prompt in enumerate(choices)
        ]  # fmt: skip

    def _prompts(self, asked: ChatRequest | CompletionRequest, named: Named) -> list[tuple[int, ...]]:
        codec = self.codec(named)
        try:
            if isinstance(asked, ChatRequest):
                chat: Sequence[Message] = chat_of([turn.message for turn in asked.messages])
                return [tuple(codec.encode_prompt(named.model.aligned.asked(chat), limit=sys.maxsize))]
        except SipoError as error:
            raise ApiError(400, str(error), param="messages") from None
        if named.model.aligned.instruct is not None:
            raise ApiError(
                400, f"`{named.model.method}` asks by a chat's system text; use chat completions", param="model"
            )
        prompts = [tuple(codec.plain.usual(each) if isinstance(each, str) else each) for each in asked.prompts]
        if not prompts or not all(prompts) or any(not 0 <= id < codec.rows for prompt in prompts for id in prompt):
            raise ApiError(400, "`prompt` is empty, or names tokens that the model has not", param="prompt")
        return prompts

    def _limit(self, asked: Asked, named: Named, prompt: Sequence[int]) -> int:
        """Tokens that the answer may have. What is not asked for is the run's, as far as the context goes."""
        task = named.served.run.task
        left = task.backbone.context - len(prompt)
        limit = asked.limit or max(1, min(task.config.data.max_response_tokens, left, self.limits.tokens))
        if limit > self.limits.tokens:
            raise ApiError(
                400, f"an answer has at most {self.limits.tokens} tokens here, not {limit}", param="max_tokens"
            )
        if limit > left:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens, with an answer of {limit} over the model's context of "
                f"{task.backbone.context}; shorten the prompt or the answer",
                param="messages" if isinstance(asked, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        return limit


def _read(scheduler: Scheduler, name: str) -> int:
    return int(getattr(scheduler, name))
