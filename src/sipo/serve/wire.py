"""What goes over the wire, in OpenAI's form: requests, answers whole and in pieces, errors.

What is not supported is refused, never ignored: a client that asks for tools does not want an answer without them.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sipo.settings import Decoding
from sipo.settings.explain import adjusted

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class ApiError(Exception):
    """An answer that is an error, as OpenAI's clients read it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        """`retry`: after how many seconds to ask again."""
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry is None else {"Retry-After": str(retry)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _asked_for(cls, given: Any) -> Any:
        """Null is left out, also where it is not supported: clients send an answer's message back as they got it."""
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class Asked(Body):
    """What both kinds of requests have. Left out, or null, a setting of decoding is the run's."""

    model: Text
    weights: dict[str, float] | None = None
    """A share for each objective, where the model's name has none; beside OpenAI's own (`extra_body`)."""
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _zero(cls, value: Any) -> Any:
        return 0 if value == 0 and not isinstance(value, bool) else value

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def answers(self) -> int:
        """How many are asked for."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def likeliest(self) -> int | None:
        """How many alternatives of each token are told; None tells no log-probability."""
        raise NotImplementedError

    def decoding(self, usual: Decoding) -> Decoding:
        """Raises SipoError for settings of no sense."""
        return adjusted(usual, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


class Part(Body):
    type: Literal["text"]
    text: str


class Turn(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def message(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(Body):
    type: Literal["text"]


class ChatRequest(Asked):
    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _of_logprobs(cls, value: int | None, known: ValidationInfo) -> int | None:
        if value and not known.data.get("logprobs"):
            raise PydanticCustomError("needs", "is told beside `logprobs`; ask for that, too")
        return value

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    prompt: Text | list[Text] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def likeliest(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        given: Any = self.prompt
        alone = isinstance(given, str) or (given and isinstance(given[0], int))
        return [given] if alone else list(given)

    @property
    def answers(self) -> int:
        return len(self.prompts) * (self.n or 1)


Kind = TypeVar("Kind", bound=Body)


def read(kind: type[Kind], body: bytes) -> Kind:
    """Raises ApiError for what is no such request."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refused(error) from None


KINDS = ("str", "int", "float", "bool")
"""What pydantic puts into a place where several may stand."""


SAID = {
    "extra_forbidden": "is not supported here; leave it out",
    "missing": "is missing",
    "literal_error": "is not supported with this value; it may be {expected}",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "string_too_short": "is empty",
    "too_short": "is empty",
    "too_long": "has more than {max_length} entries",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
"""What is wrong with a place, by pydantic's kinds of errors."""


def refused(error: ValidationError) -> ApiError:
    """The first thing that is wrong; where a text or a list may stand, as the list that it is."""
    found = max(
        error.errors(include_url=False), key=lambda each: (len(each["loc"]), not each["type"].endswith("_type"))
    )
    name = str(found["loc"][0]) if found["loc"] else None
    keys = [part for part in found["loc"] if isinstance(part, int) or (part.islower() and part not in KINDS)]
    place = ".".join(str(part) for part in keys if str(part).isidentifier() or isinstance(part, int))
    kind, about = found["type"], found.get("ctx", {})
    if kind == "json_invalid":
        return ApiError(400, f"the body is no JSON: {found['msg']}")
    if kind == "too_long" and not about["max_length"]:  # such as would be taken if they held anything
        kind = "extra_forbidden"
    said = SAID[kind].format(**about) if kind in SAID else found["msg"]
    return ApiError(400, f"{f'`{place}`' if place else 'the body'} {said}", param=name)


def usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class Told:
    """A token as it is told: its text, and that in bytes where it is whole characters."""

    def __init__(self, text: str, logprob: float, likeliest: Sequence["Told"] = ()) -> None:
        self.text, self.logprob, self.likeliest = text, logprob, likeliest

    @property
    def chat(self) -> dict[str, Any]:
        return {**self._alone, "top_logprobs": [each._alone for each in self.likeliest]}

    @property
    def _alone(self) -> dict[str, Any]:
        whole = "\N{REPLACEMENT CHARACTER}" not in self.text
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.text.encode()) if whole else None}


class Form:
    """How an answer is written down: whole, or in pieces."""

    def __init__(self, id: str, created: int, model: str, about: dict[str, Any]) -> None:
        """`about` is told beside the answer, as `sipo`: the weight that was used, and what was measured near it."""
        self.head = {"id": id, "created": created, "model": model}
        self.about = about

    whole_object: str
    piece_object: str

    def whole(self, choices: Sequence[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        return {**self.head, "object": self.whole_object, "choices": choices, "usage": used, "sipo": self.about}

    def piece(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self.head, "object": self.piece_object, "choices": choices, **more}

    def opening(self, index: int) -> dict[str, Any]:
        """What a choice begins with when it comes in pieces."""
        raise NotImplementedError

    def choice(self, index: int, text: str, told: Sequence[Told] | None, finish: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def part(self, index: int, text: str, told: Sequence[Told] | None, finish: str | None) -> dict[str, Any]:
        raise NotImplementedError


class ChatForm(Form):
    whole_object, piece_object = "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, text: str, told: Sequence[Told] | None, finish: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(told), "finish_reason": finish}

    def part(self, index: int, text: str, told: Sequence[Told] | None, finish: str | None) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": self._logprobs(told), "finish_reason": finish}

    def _logprobs(self, told: Sequence[Told] | None) -> dict[str, Any] | None:
        return None if told is None else {"content": [each.chat for each in told], "refusal": None}


class CompletionForm(Form):
    whole_object = piece_object = "text_completion"

    def opening(self, index: int) -> dict[str, Any]:
        return self.choice(index, "", None, None)

    def choice(self, index: int, text: str, told: Sequence[Told] | None, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": self._logprobs(told), "finish_reason": finish}

    part = choice

    def _logprobs(self, told: Sequence[Told] | None) -> dict[str, Any] | None:
        if told is None:
            return None
        likeliest = [{each.text: each.logprob for each in token.likeliest} for token in told]
        return {
            "tokens": [token.text for token in told],
            "token_logprobs": [token.logprob for token in told],
            "top_logprobs": likeliest,
        }
