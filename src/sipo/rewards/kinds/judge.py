"""Rewards by a language model as judge."""

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote_plus, urlsplit

from pydantic import Field, field_validator, model_validator

from sipo.declare.stage import later
from sipo.rewards.kinds.spec import RewardSpec
from sipo.settings.section import Natural, Number, Positive, Rate, Section

SECRET = re.compile(
    r"(key|token|secret|pass|pwd|auth|sig|cred|jwt|bearer|\bcode)[^=&;]*="  # by its name
    r"|(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[a-z])(?!\d{4}-)[\w-]{20,}",  # by its looks; a date begins a version
    re.IGNORECASE,
)
"""What in a URL's query may be a key."""
KEY = re.compile(r"(?<![\w-])(sk-|sk_|hf_|gsk_|xai-|nvapi-|AIza|ghp_|github_pat_|r8_|AKIA|eyJ)[\w-]{16,}")
"""A key by how it begins, wherever it stands."""
KEY_FIELD = re.compile(r'"([\w-]*api[_-]?key|authorization|access[_-]?token|password|secret)"\s*:', re.IGNORECASE)
OWN_FIELDS = {
    "model": "name it as `model` of the judge",
    "messages": "what is judged is put there",
    "stream": "answers are read whole",
    **dict.fromkeys(
        ("extra_body", "extra_headers", "extra_query"),
        "it belongs to a Python client; write its fields beside the others",
    ),
}
OWN_HEADERS = (
    "host|content-.*|transfer-encoding|connection|user-agent|accept.*|te|trailer|upgrade|expect|keep-alive|proxy-.*"
)
ELSEWHERE = (
    "since it is written and shown; put the key in an environment variable and name that as key_variable "
    "(with key_header: if it is no bearer token)"
)


class Judge(Section):
    """A language model behind an OpenAI-compatible endpoint, asked for a number for each of its objectives."""

    judge: str
    """The endpoint, such as http://localhost:8000/v1; secrets do not belong here, for it is written and shown."""
    model: str
    pairwise: bool = False
    """True asks which is better, the response or the base model's answer to the same prompt, in both orders: the reward
    is the share of wins. Else each response is graded alone."""
    lowest: Number = 1.0
    highest: Number = 10.0
    options: dict[str, Any] = Field(default={"temperature": 0})
    """Further fields of the request."""
    json_schema: bool = True
    """Ask the server to enforce the form of the answer; it is checked in any case."""
    key_variable: str | None = None
    """The environment variable that holds the endpoint's key."""
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "Authorization"
    """The header that carries it: as `Bearer KEY` in Authorization (unless it names its scheme), bare in another."""
    on_refusal: Literal["skip", "stop"] = "skip"
    """What an item that the provider refuses to answer does: stay without a score, or end the run."""
    concurrency: Positive = 8
    requests_per_minute: Rate | None = None
    timeout: Rate = 120.0
    """Seconds for one whole answer."""
    retries: Natural = 5

    @field_validator("judge")
    @classmethod
    def _is_an_address_without_secrets(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fits = False
        if not fits or not url.isprintable() or " " in url:
            raise ValueError("judge must be a URL, such as http://localhost:8000/v1")
        if parts.username is not None or parts.fragment or SECRET.search(unquote_plus(parts.query)):
            raise ValueError(f"judge must be a URL without user, password or key, {ELSEWHERE}")
        if KEY.search(unquote_plus(parts.path)):
            raise ValueError(f"judge must be a URL without a key in its path, {ELSEWHERE}")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError("judge must be the URL without /chat/completions, which is added")
        return url

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and (KEY.search(name) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
            raise ValueError("must be the name of an environment variable, such as JUDGE_KEY, and not the key itself")
        return name

    @field_validator("key_header")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if re.fullmatch(OWN_HEADERS, name, re.IGNORECASE):
            raise ValueError("must be a header for keys, such as api-key; HTTP itself sets this one")
        return name

    @field_validator("options")
    @classmethod
    def _can_be_sent(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, why in OWN_FIELDS.items():
            if options.get(name, False) is not False:
                raise ValueError(f"{name} must be left out; {why}")
        try:
            text = json.dumps(options, allow_nan=False, ensure_ascii=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must be plain JSON ({error})") from None
        if KEY.search(text) or KEY_FIELD.search(text):
            raise ValueError(f"must hold no key, {ELSEWHERE}")
        return options

    @model_validator(mode="after")
    def _makes_sense(self) -> "Judge":
        if self.lowest >= self.highest:
            raise ValueError("lowest must be below highest")
        return self

    @property
    def address(self) -> str:
        """The endpoint as it may be shown."""
        return address_of(self.judge)

    def __str__(self) -> str:
        return f"{'pairwise ' * self.pairwise}judge {self.model} at {self.address}"


FAMILIES = re.compile(
    r"llama|qwen|qwq|gemma|gemini|mistral|mixtral|ministral|magistral|phi|smollm|deepseek|gpt|claude|olmo|granite|falcon|"
    r"command|aya|glm|internlm|minimax|kimi|nemotron|hunyuan|yi(?=-)|exaone|solar|grok|bloom|stablelm|opt(?=-)|lfm",
    re.IGNORECASE,
)
"""What names of models have in common with those of their kin."""


def families_of(name: str) -> set[str]:
    """The families that a model's name tells; a distilled one may be of two."""
    last = name.rstrip("/").replace("package:llm_", "").rpartition("/")[2]
    return {each.lower() for each in FAMILIES.findall(last)}


def kin_of(reward: object, model: str) -> list[str]:
    """The families that a judge has in common with the policies' model, as far as names tell."""
    judge = getattr(reward, "model", None) if isinstance(reward, Judge) else None
    return sorted(families_of(judge or "") & families_of(model))


def address_of(url: str) -> str:
    """A URL without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "an address that is no URL"


def _skips(reward: Judge) -> bool:
    return reward.on_refusal == "skip"


def _compares(reward: Judge) -> bool:
    return reward.pairwise


REWARDS = (
    RewardSpec(
        "judge",
        Judge,
        "a language model behind an endpoint",
        later("sipo.rewards.judge:measured"),
        by_words=True,
        refusable=_skips,
        compares=_compares,
        pace=frozenset({"concurrency", "requests_per_minute", "timeout", "retries", "key_variable"}),
    ),
)
