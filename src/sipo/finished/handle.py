"""The handle of a finished run: the model is loaded once, and answers at any preference weight, by any method."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypedDict, Unpack, overload

from sipo.config import Config
from sipo.data.chats import kind_of
from sipo.data.prompts import parse_text
from sipo.decoding import seed_of
from sipo.engines import Local, Span
from sipo.engines.batched import score_plan
from sipo.engines.fitting import rows_for, tokens_for
from sipo.errors import SipoError
from sipo.finished.answering import Asked, Placed, answers_to
from sipo.finished.built import Built, task_of
from sipo.finished.prompts import Chat, Prompt, as_prompts, chats_of
from sipo.logprobs.score import ScoreRequest
from sipo.message import Message
from sipo.methods.interface import Aligned, Method
from sipo.methods.registry import usual
from sipo.places import path_of
from sipo.runs.status import fronts_of, read_run, remarks_of
from sipo.settings.explain import adjusted
from sipo.task import Task
from sipo.weights import as_weight
from sipo.words import quantity


class How(TypedDict, total=False):
    """How answers are drawn; what is left out, or None, is as in the run."""

    temperature: float | None
    """0 is greedy."""
    top_k: int | None
    """0 is off."""
    top_p: float | None
    """1 is off."""
    max_new_tokens: int | None
    seed: int
    """0 unless given. Each answer draws from a stream of its own, by the seed and its place in the call."""
    watch: Callable[[int, str], None] | None
    """watch(place, text) is told of every piece of an answer as it comes, with the prompt's place in the call."""
    done: Callable[[int, str], None] | None
    """done(place, answer) is told of every answer once it is whole, in the order in which they end."""


class Ask(NamedTuple):
    prompt: Prompt
    model: "AlignedModel"


def open(path: str | os.PathLike[str]) -> "FinishedRun":
    """A finished run, for use. `path` is its folder; nothing but its configuration is read yet.

    Raises SipoError where there is no run, or a damaged one.

    >>> run = sipo.open("runs/quickstart")
    >>> run.objectives
    ('detail', 'plain')
    """
    return FinishedRun(path)


class FinishedRun:
    """A run in use: `at` gives a model at a preference weight, and `generate` asks several of them in one batch.

    The model is loaded when it is first asked, once for all weights and methods; adapters are read once. What has been
    read stays as it was, whatever becomes of the folder. Threads take turns.

    >>> run = sipo.open("runs/quickstart")
    >>> model = run.at({"detail": 0.3, "plain": 0.7})
    >>> answer = model.generate("How do I grow tomatoes?", max_new_tokens=8)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise SipoError(f"the run is {kind_of(path)}; name its folder")
        self.path = path_of(path)
        self.config: Config = read_run(self.path)
        """The configuration that the run was last given."""
        self._built = Built(self.path, self.config)
        self.turn = RLock()
        """Held while the model works."""
        self._span: Span | None = None

    def __repr__(self) -> str:
        return f"sipo.open({str(self.path)!r})"

    @property
    def objectives(self) -> tuple[str, ...]:
        """Their names, in the run's order."""
        return self.config.names

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that can answer now: the methods that the run compares, then others that its policies suffice for.

        >>> sipo.open("runs/quickstart").methods[:4]
        ('base', 'soups', 'mod', 'sipo')
        """
        return tuple(self._built.names())

    @property
    def fronts(self) -> dict[str, Any] | None:
        """What the run measured, as its compare/fronts.json has it; None where it did not, or with other settings.

        >>> fronts = sipo.open("runs/quickstart").fronts
        >>> [sorted(point["rewards"]) for point in fronts["methods"]["base"]["points"]][0]
        ['detail', 'plain']
        """
        return fronts_of(self.path, self.config)

    @property
    def remarks(self) -> list[str]:
        """What its answers do not say by themselves, in sentences: that SIPO had nothing to learn from.

        >>> all(remark.endswith(".") for remark in sipo.open("runs/quickstart").remarks)
        True
        """
        return remarks_of(self.path, self.config)

    def at(self, weights: Mapping[str, float] | None = None, method: str | None = None) -> "AlignedModel":
        """The method's model at a preference weight: shares by objective that sum to 1, those left out being 0.

        Without a method it is sipo, or MOD in a run without it.

        `base` and `policy:NAME` are the same at any weight, and need none. Raises SipoError for weights off the
        simplex, an unknown method, one whose stages the run has not made, or that was not trained at the weight.

        >>> run = sipo.open("runs/quickstart")
        >>> run.at({"plain": 1}, method="mod")
        sipo.open('runs/quickstart').at({'detail': 0.0, 'plain': 1.0}, method='mod')
        >>> run.at({"plain": 0.5})
        Traceback (most recent call last):
        ...
        sipo.errors.SipoError: weights: the shares sum to 0.5, not to 1; `detail` has none
        """
        method = usual(self.config.methods) if method is None else method
        if not isinstance(method, str):
            raise SipoError(f"method is {kind_of(method)}; name one, such as sipo")
        with self.turn:
            found = self._method(method)
            names = self.objectives
            if not isinstance(weights, Mapping) and (found.steerable or weights is not None):
                example = {name: round(1 / len(names), 2) for name in names}
                raise SipoError(f"weights is {kind_of(weights)}; give a share for each objective, such as {example}")
            weight = (1 / len(names),) * len(names) if weights is None else as_weight(weights, names, "weights")
            if not found.steerable:
                return AlignedModel(self, None, method, found.at(weight))
            return AlignedModel(self, dict(zip(names, weight, strict=True)), method, found.at(weight))

    def trained(self, method: str) -> list[dict[str, float]] | None:
        """The weights that a method trained a model for, as shares by objective; None where it answers at any.

        Raises SipoError as `at` does.

        >>> sipo.open("runs/quickstart").trained("mod") is None
        True
        """
        with self.turn:
            weights = self._built.trained(method)
        return None if weights is None else [dict(zip(self.objectives, each, strict=True)) for each in weights]

    def _method(self, name: str) -> Method:
        return self._built.method(name)

    def generate(self, asks: Sequence[tuple[Prompt, "AlignedModel"]], **how: Unpack[How]) -> list[str]:
        """The answers to pairs of a prompt and a model of this run, in order and in shared batches; see `How`.

        An answer depends on its neighbours by no more than rounding. Raises SipoError for what is no such pair, a
        prompt that the model's context does not hold, and settings of no sense.

        >>> run = sipo.open("runs/quickstart")
        >>> models = run.at({"detail": 1}), run.at({"detail": 0.5, "plain": 0.5}, method="soups")
        >>> greedy = {"temperature": 0, "max_new_tokens": 8}
        >>> answers = run.generate([("How do I swim?", model) for model in models], **greedy)
        >>> answers == [model.generate("How do I swim?", **greedy) for model in models]
        True
        """
        if not isinstance(asks, Iterable):
            raise SipoError(f"asks is {kind_of(asks)}; give a list of (prompt, model)")
        if unknown := how.keys() - How.__annotations__.keys():
            raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
        asked = [self._ask(each, f"asks[{i}]") for i, each in enumerate(asks)]
        drawn = {name: how.get(name) for name in ("temperature", "top_k", "top_p")}
        decoding, limit = adjusted(self.config.decoding, **drawn), how.get("max_new_tokens")
        limit = self.config.data.max_response_tokens if limit is None else limit
        if not isinstance(limit, Integral) or isinstance(limit, bool) or limit < 1:
            raise SipoError(f"max_new_tokens is {limit!r}; ask for at least 1, as a whole number")
        chats = chats_of([ask.prompt for ask in asked])
        if not asked:
            return []
        with self.turn:
            span, models = self._placed([ask.model.aligned for ask in asked])
            prompts = [_encode(self.task, m.aligned.asked(x), limit) for m, x in zip(models, chats, strict=True)]
            wanted = [
                Asked.of(model, prompt, seed_of(how.get("seed", 0), "generate", i), decoding)
                for i, (model, prompt) in enumerate(zip(models, prompts, strict=True))
            ]
            execution, codec = self.config.execution.here, self.task.codec
            rows = rows_for(execution, self.task.bank, span, [draw for each in wanted for draw in each.draws], limit)
            told = how.get("watch"), how.get("done")
            return list(
                self._local.compute(span, lambda bank, room: answers_to(wanted, bank, codec, limit, (rows, room), told))
            )

    def _logprobs(self, prompts: Sequence[Prompt], responses: Sequence[str], model: "AlignedModel") -> list[float]:
        if model.aligned.best_of:
            raise SipoError(f"`{model.method}` gives the best of several draws, whose log-probability is not known")
        chats = chats_of(prompts)
        texts = [parse_text(response, "response", may_be_empty=True) for response in responses]
        if not chats:
            return []
        with self.turn:
            answers = [tuple(self.task.codec.encode_response(text)) for text in texts]
            asked = [_encode(self.task, model.aligned.asked(x), len(y)) for x, y in zip(chats, answers, strict=True)]
            span, (placed,) = self._placed([model.aligned])
            requests = [ScoreRequest(x, y, placed.mixture) for x, y in zip(asked, answers, strict=True)]
            found: dict[int, float] = {}
            longest = max(len(prompt) + len(answer) for prompt, answer in zip(asked, answers, strict=True))
            tokens = tokens_for(self.config.execution.here, self.task.bank, span, longest)
            for units, batch in score_plan(requests, self.task.bank.knee, tokens):
                found |= zip(units, self._local.compute(span, batch), strict=True)
            return [found[unit] for unit in range(len(requests))]

    @cached_property
    def task(self) -> Task:
        """Its data and its model, each read when first asked for."""
        return task_of(self.path, self.config)

    @cached_property
    def _local(self) -> Local:
        """What is mounted stays until a batch stands on other adapters."""
        return Local(self.config.execution.here, self.task.bank)

    def _placed(self, models: Sequence[Aligned]) -> tuple[Span, list[Placed]]:
        """The span of all the models' adapters, and each one in it."""
        adapters = tuple(dict.fromkeys(adapter for model in models for adapter in model.adapters))
        if self._span is None or self._span.policies != adapters:
            self._span = self.task.span(adapters)
        where = {adapter: place for place, adapter in enumerate(adapters)}
        places = [tuple(where[adapter] for adapter in model.adapters) for model in models]
        return self._span, [Placed(model, at, len(adapters)) for model, at in zip(models, places, strict=True)]

    def _ask(self, given: object, place: str) -> Ask:
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], AlignedModel):
            raise SipoError(f"{place} is {kind_of(given)}; give (prompt, model), the model from `at`")
        if given[1].run is not self:
            raise SipoError(f"{place}: the model is of {given[1].run}; ask that one, or take one from `at` here")
        return Ask(*given)


class AlignedModel:
    """A method's model at a preference weight, of a finished run (`FinishedRun.at`).

    >>> model = sipo.open("runs/quickstart").at({"detail": 0.3, "plain": 0.7}, method="soups")
    >>> model.weights
    {'detail': 0.3, 'plain': 0.7}
    """

    def __init__(self, run: FinishedRun, weights: dict[str, float] | None, method: str, aligned: Aligned) -> None:
        self.run = run
        self.weights = weights
        """A share for each objective; None for a method that no weight steers."""
        self.method = method
        self.aligned = aligned
        """The adapters, and the mixture of points in their span that answers."""

    def __repr__(self) -> str:
        return f"{self.run}.at({self.weights}, method={self.method!r})"

    @overload
    def generate(self, prompts: str | Chat, **how: Unpack[How]) -> str: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompts: Sequence[Prompt], **how: Unpack[How]) -> list[str]: ...
    def generate(self, prompts: Prompt | Sequence[Prompt], **how: Unpack[How]) -> str | list[str]:
        """The answer to one prompt (a text, or a chat as a list of messages), or those to a list of prompts; see `How`.

        Raises SipoError as `FinishedRun.generate` does.

        >>> model = sipo.open("runs/quickstart").at({"detail": 0.3, "plain": 0.7})
        >>> text = model.generate("How do I swim?", temperature=0, max_new_tokens=8)
        >>> model.generate([{"role": "user", "content": "How do I swim?"}], temperature=0, max_new_tokens=8) == text
        True
        >>> len(model.generate(["How do I swim?", "What is rain?"], max_new_tokens=8))
        2
        """
        asked, alone = as_prompts(prompts)
        answers = self.run.generate([(prompt, self) for prompt in asked], **how)
        return answers[0] if alone else answers

    @overload
    def logprobs(self, prompts: str | Chat, responses: str) -> float: ...  # type: ignore[overload-overlap]
    @overload
    def logprobs(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]: ...
    def logprobs(self, prompts: Prompt | Sequence[Prompt], responses: str | Sequence[str]) -> float | list[float]:
        """log pi(y | x) of one prompt's response, or of each of a list: natural, summed over the response's tokens;
        larger is likelier.

        It is of drawing the response at temperature 1 and then ending it; as everywhere in the run, one of
        data.max_response_tokens or more is cut there and does not end. A mixture's distribution is renormalised at
        every token (`sipo.logprobs.mixture`). Raises SipoError where they do not match, or a prompt is too long.

        >>> model = sipo.open("runs/quickstart").at({"detail": 0.3, "plain": 0.7}, method="mod")
        >>> model.logprobs("What is rain?", "water") < 0
        True
        """
        asked, alone = as_prompts(prompts)
        if alone:
            if not isinstance(responses, str):
                raise SipoError(f"responses is {kind_of(responses)}; one prompt has one, a text")
            return self.run._logprobs(asked, [responses], self)[0]
        if isinstance(responses, str) or not isinstance(responses, Sequence):
            raise SipoError(f"responses is {kind_of(responses)}; give a list, one for each prompt")
        if len(asked) != len(responses):
            counts = f"{quantity(len(asked), 'prompt')} and {quantity(len(responses), 'response')}"
            raise SipoError(f"given are {counts}; give one response for each prompt")
        return self.run._logprobs(asked, responses, self)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        merged: bool = False,
        base: str | None = None,
        rank: int | None = None,
    ) -> Path:
        """Write the model into the new folder, with a card, and return the folder.

        An ordinary PEFT adapter, exact; or, `merged`, the whole model with W + sum_i w_i s_i B_i A_i, added up in
        float32 and rounded once to the model's dtype. Whole models (`policies: full`) are always written as one, with
        sum_i w_i W_i. `base` is the base model's name in the adapter and on the card, where others know it by another
        than the run does: a hub id or a folder. Of more than `rank` ranks, the adapter is cut to the nearest one that
        has so many, and the card says what that costs. Raises SipoError for MOD and sipo, which mix several models
        token by token: their soups are `soups` and `sipo-soups`; and for a base that is neither, or has other layers.

        >>> run = sipo.open("runs/quickstart")
        >>> folder = run.at({"detail": 0.3, "plain": 0.7}, method="soups").save_pretrained("my-soup")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
        """
        from sipo.finished.export import export

        if not isinstance(folder, str | os.PathLike):
            raise SipoError(f"the folder is {kind_of(folder)}; name a new one")
        if not isinstance(base, str | None):
            raise SipoError(f"base is {kind_of(base)}; name a hub id or a folder")
        if rank is not None and (not isinstance(rank, Integral) or isinstance(rank, bool) or rank < 1):
            raise SipoError(f"rank is {rank!r}; ask for at least 1, as a whole number")
        return export(self, Path(folder), merged=merged, base=base, rank=rank).folder


def _encode(task: Task, chat: Sequence[Message], room: int) -> tuple[int, ...]:
    """The prompt as token ids; the model's context must hold it with an answer of `room` tokens."""
    ids = task.codec.encode_prompt(chat, limit=sys.maxsize)
    if len(ids) + room > task.backbone.context:
        raise SipoError(
            f"the prompt {chat[-1].content[:60]!r} has {len(ids)} tokens, with an answer of {room} over the model's "
            f"context of {task.backbone.context}; shorten it or the answer"
        )
    return tuple(ids)
