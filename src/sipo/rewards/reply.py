"""What an endpoint's reply says, whatever it is: an answer, a refusal, trouble that may pass, or one line."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from sipo.errors import SipoError
from sipo.plain import opening, plain
from sipo.rewards.kinds.judge import address_of

LARGEST = 4 << 20
"""Bytes of a reply that are read."""
TRANSIENT = (408, 409, 425, 429)
"""Statuses that are worth another try, as all from 500 on are."""
FORM = "change options, or set json_schema: false, where it is one of these that the server does not take"
HINTS = {
    400: FORM,
    401: "does the key fit?",
    402: "see the account there",
    403: "does the key fit?",
    404: "check the URL and the model's name",
    413: "lower data.max_prompt_tokens or data.max_response_tokens, or take a judge with a longer context",
    422: FORM,
    429: "set requests_per_minute, lower concurrency, or see the account there",
}
REFUSED = re.compile(
    r"content[ _-]?(filter|policy|management|moderation|safety|block)|moderation|flagged|responsible.?ai|inspection|"
    r"(safety|usage) (system|polic|filter)|(unsafe|sensitive|inappropriate|prohibited|harmful).?content",
    re.IGNORECASE,
)
"""How providers say that they will not have an item judged."""
STOPPED = re.compile(
    "content_filter|refusal|safety|prohibited_content|sensitive|blocklist|recitation|spii", re.IGNORECASE
)
"""How they say so where the answer should end; some add the reason behind a colon."""


class RefusalError(SipoError):
    """The provider will not answer this item, and would not another time."""


class PassingError(SipoError):
    """What may go better another time, after so many seconds if the endpoint says so."""

    def __init__(self, what: str, way_out: str, after: float | None = None, busy: bool = False) -> None:
        super().__init__(f"{what}; {way_out}")
        self.what, self.way_out, self.after = what, way_out, after
        self.busy = busy
        """Is somebody there, only not now?"""


class Reply(NamedTuple):
    """What came over the wire; `body` is None where it was too long to be read."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes | None


class Answer(NamedTuple):
    text: str
    refusal: str = ""
    """Why the model, or a filter over it, would not answer; perhaps there is a text all the same."""
    flaw: str = ""
    """What may be wrong with the text."""


def read_answer(reply: Reply) -> Answer:
    """What a reply says, whatever it is. Raises RefusalError, PassingError, or SipoError."""
    if reply.body is None:
        raise SipoError(f"answered with more than {LARGEST >> 20} MiB; lower max_tokens in options")
    text = reply.body.decode("utf-8-sig", errors="replace")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    error = _error_in(payload)
    after = _asked_to_wait(reply.headers)
    if not 200 <= reply.status < 300:
        if where := reply.headers.get("location"):
            raise SipoError(f"answered {reply.status}, which sends on to {address_of(where)}; name that as the judge")
        raise _failure(reply.status, error or opening(text, 200), after)
    choices = payload.get("choices") if isinstance(payload, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = error or _error_in(choice)
    message = choice.get("message") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and message is None and _is_stopped(choice):
        message = {}
    if error and not (isinstance(message, dict) and _joined(message.get("content"))):
        raise _failure(_code_of(payload) or _code_of(choice), error, after)
    if not (isinstance(choice, dict) and isinstance(message, dict)):
        raise PassingError(f"answered no chat completion ({_kind(text)} {opening(text)})", "does the URL end in /v1?")
    return _answer(choice, message)


def _answer(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Answer:
    text, refusal, finish = _joined(message.get("content")), message.get("refusal"), choice.get("finish_reason")
    if isinstance(refusal, str) and refusal.strip():
        return Answer(text, refusal)
    if _is_stopped(choice):
        return Answer(text, f"it was stopped by {finish}")
    if finish == "length":
        what = "it was cut at the limit of its tokens" if text.strip() else "all of its tokens went into reasoning"
        return Answer(text, flaw=f"{what}, raise max_tokens in options")
    if not text.strip() and message.get("tool_calls"):
        return Answer(text, flaw="it calls a tool")
    return Answer(text)


def _is_stopped(choice: Mapping[str, Any]) -> bool:
    finish = choice.get("finish_reason")
    return isinstance(finish, str) and bool(STOPPED.fullmatch(finish.partition(":")[0].strip()))


def _joined(content: Any) -> str:
    """The text of a message's content: a text, or a list of parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _error_in(payload: Any) -> str:
    """What a payload says went wrong, or nothing."""
    error = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(payload, dict) and not error and "choices" not in payload:
        error = payload.get("detail") or (payload if isinstance(payload.get("message"), str) else None)
    if not error:
        return ""
    message = error.get("message") if isinstance(error, dict) else error
    message = message if isinstance(message, str) and message.strip() else json.dumps(error)
    more = [error.get(key) for key in ("code", "type", "metadata", "innererror")] if isinstance(error, dict) else []
    shown = [message, *(each if isinstance(each, str) else json.dumps(each) for each in more if each)]
    return plain(" ".join(", ".join(shown).split()))[:300]


def _code_of(payload: Any) -> int | None:
    """The status that an error inside a reply names, if any."""
    error = payload.get("error") if isinstance(payload, dict) else None
    for key in ("code", "status", "status_code"):
        code = str(error.get(key)) if isinstance(error, dict) else ""
        if re.fullmatch("[1-5][0-9][0-9]", code):
            return int(code)
    return None


def _failure(status: int | None, said: str, after: float | None) -> SipoError:
    """The error for a status, or for one inside a reply of status 200, which may have none."""
    if REFUSED.search(said) and status in (None, 400, 403, 422, 451):
        return RefusalError(said)
    what = f"the server answered {'an error' if status is None else status} ({said})"
    way_out = HINTS.get(status or 0, "see the server's log")
    if status is None or status in TRANSIENT or status >= 500:
        return PassingError(what, way_out, after, busy=status is not None)
    return SipoError(f"{what}; {way_out}")


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number of them or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _kind(text: str) -> str:
    """What a body is that is no completion."""
    start = text.lstrip()[:16].lower()
    if not start:
        return "nothing:"
    if start.startswith("<"):
        return "HTML:"
    return "a stream of events:" if start.startswith(("data:", "event:", ":")) else "it begins"
