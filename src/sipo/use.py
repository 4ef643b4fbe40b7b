"""Asking a finished run, at any preference weight: for answers, and for how likely a response is."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from sipo.config import Decoding
from sipo.config.explain import explain
from sipo.data import Message
from sipo.data.prompts import parse_prompt
from sipo.decoding import Request, decode, seed_of
from sipo.engines import ScoreRequest
from sipo.errors import SipoError
from sipo.models.chat import Codec
from sipo.runs.finished import open_run
from sipo.task import Task


def generate(
    run: Path,
    weights: Mapping[str, float],
    prompts: Sequence[str],
    *,
    method: str = "sipo",
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    watch: Callable[[int, str], None] | None = None,
) -> list[str]:
    """One answer a prompt, by a method at a preference weight; what is None is as in the run.

    `weights` are shares by objective that sum to 1 (`base` and `policy:NAME` take any). `watch(prompt, text)` is
    told of every piece of text as it comes, with the prompt's index. Raises SipoError where the run has not come
    that far.
    """
    task, aligned = open_run(run, weights, method)
    config, mixture = task.config, aligned.mixture
    decoding = adjusted(config.decoding, temperature=temperature, top_k=top_k, top_p=top_p)
    limit = config.data.max_response_tokens if max_new_tokens is None else max_new_tokens
    if limit < 1:
        raise SipoError(f"max_new_tokens is {limit}; ask for at least 1")
    chats = [parse_prompt(prompt) for prompt in prompts]
    encoded = [_encode(task, chat, limit) for chat in chats]
    requests = [Request(ids, mixture, seed_of(seed, "generate", i)) for i, ids in enumerate(encoded)]
    answers: list[str] = []
    together = max(1, config.execution.decode_rows // len(mixture.points))
    with task.bank.mounted(aligned.adapters):
        for start in range(0, len(requests), together):
            batch = requests[start : start + together]
            stream = _Stream(task.codec, start, watch) if watch else None
            generated = decode(task.bank, batch, decoding, limit, task.codec.stops, stream)
            texts = [task.codec.decode(each.tokens) for each in generated]
            if stream:
                stream.finish(texts)
            answers += texts
    return answers


def score(
    run: Path,
    weights: Mapping[str, float],
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    method: str = "sipo",
) -> list[float]:
    """log pi(y | x) of each prompt's response, by a method at a preference weight: natural, summed over the response's
    tokens; larger is likelier.

    It is of drawing the response at temperature 1 and then ending it; as everywhere in the run, one of
    data.max_response_tokens or more is cut there and does not end. `weights` and errors are as in `generate`.
    """
    if len(prompts) != len(responses):
        raise SipoError(f"score: there are {len(prompts)} prompts and {len(responses)} responses; give one for each")
    task, aligned = open_run(run, weights, method)
    chats = [parse_prompt(prompt) for prompt in prompts]
    answers = [tuple(task.codec.encode_response(response)) for response in responses]
    requests = [
        ScoreRequest(_encode(task, chat, len(y)), y, aligned.mixture) for chat, y in zip(chats, answers, strict=True)
    ]
    with task.engine() as engine:
        scored = dict(engine.score(task.span(aligned.adapters), requests))
    return [scored[unit] for unit in range(len(requests))]


def adjusted(settings: Decoding, **changes: float | None) -> Decoding:
    """The settings with what is not None changed. Raises SipoError for a value that makes no sense."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Decoding(**{**settings.model_dump(), **given})
    except ValidationError as error:
        raise SipoError(explain(error, given, Decoding)) from None


def _encode(task: Task, chat: Sequence[Message], room: int) -> tuple[int, ...]:
    """The prompt as token ids; the model's context must hold it with an answer of `room` tokens."""
    ids = task.codec.encode_prompt(chat, limit=sys.maxsize)
    if len(ids) + room > task.backbone.context:
        raise SipoError(
            f"the prompt {chat[-1].content[:60]!r} has {len(ids)} tokens, with an answer of {room} over the model's "
            f"context of {task.backbone.context}; shorten it or the answer"
        )
    return tuple(ids)


@dataclass
class _Told:
    """How far one answer has been told."""

    tokens: list[int] = field(default_factory=list)
    settled: int = 0
    """Tokens whose text is known; the `before` last of them are decoded again, since what follows may join them."""
    before: int = 0
    pieces: list[str] = field(default_factory=list)
    spaces: str = ""
    """Held back: an answer does not end in them."""


class _Stream:
    """Tells tokens as text, and holds back what the next token may still change (half a character, a space).

    Only the last tokens are decoded again, so that a long answer costs no more a token than a short one.
    """

    def __init__(self, codec: Codec, start: int, watch: Callable[[int, str], None]) -> None:
        self.codec, self.start, self.watch = codec, start, watch
        self.told: dict[int, _Told] = {}

    def __call__(self, request: int, token: int) -> None:
        if token in self.codec.stops:
            return
        told = self.told.setdefault(request, _Told())
        told.tokens.append(token)
        start = told.settled - told.before
        known, text = self._text(told.tokens[start : told.settled]), self._text(told.tokens[start:])
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return
        told.settled, told.before = len(told.tokens), len(told.tokens) - told.settled
        new = told.spaces + text[len(known) :]
        new = new if told.pieces else new.lstrip()
        told.spaces = new[len(new.rstrip()) :]
        self._tell(request, told, new.rstrip())

    def finish(self, texts: Sequence[str]) -> None:
        for request, text in enumerate(texts):
            told = self.told.setdefault(request, _Told())
            before = "".join(told.pieces)
            if text.startswith(before):
                self._tell(request, told, text[len(before) :])

    def _text(self, tokens: list[int]) -> str:
        return str(self.codec.tokenizer.decode(tokens, skip_special_tokens=True))

    def _tell(self, request: int, told: _Told, piece: str) -> None:
        if piece:
            told.pieces.append(piece)
            self.watch(self.start + request, piece)
