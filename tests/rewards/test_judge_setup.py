"""What is wrong with a judge and not with what it judges is told before a run, stops it, and is not kept."""

import json
import math
import re
from time import sleep
from typing import Any

import pytest
from endpoint import Answer, Server, by_length, items, objectives, response_of, server
from pydantic import ValidationError
from test_judge_replies import GOOD, completion, reply

from sipo.errors import SipoError
from sipo.progress import Progress
from sipo.rewards import check_rewards, score_responses
from sipo.rewards.kinds.judge import Judge, address_of
from sipo.rewards.reply import read_answer

__all__ = ["server"]

REFUSED: Answer = (
    403,
    {"error": {"message": "Your organisation's data policy does not allow it, see our usage policy"}},
)
AT_ONCE: dict[str, tuple[Answer, str]] = {
    "no such model": ((404, {"error": {"message": 'model "tiny" not found'}}), "check the URL and the model's name"),
    "a form it cannot": ((400, {"error": {"message": "response_format is not supported"}}), "json_schema: false"),
    "an option it cannot": ((422, {"detail": [{"loc": ["body", "temperature"], "msg": "?"}]}), "change options"),
    "no credit": ((402, {"error": "Insufficient credits"}), "see the account there"),
    "another protocol": ((200, {"message": {"content": "7"}, "done": True}), "does the URL end in /v1?"),
    "a model that does not keep to the form": ((200, "Seven!"), "take a model that keeps to the form"),
    "an account that may not": (REFUSED, "refuses even the response 'Blue.' .* see the account"),
    "too long": ((413, b""), "lower data.max_prompt_tokens or data.max_response_tokens"),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_a_judge_that_cannot_judge_is_found_before_the_run(server: Server, case: str) -> None:
    answer, words = AT_ONCE[case]
    server.behave = lambda request, before: answer
    for more in ({}, {"on_refusal": "stop"}):
        with pytest.raises(SipoError, match=words):
            check_rewards(objectives(server, retries=9, **more))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_judge_is_taken_on_trust(server: Server, status: int) -> None:
    server.behave = lambda request, before: (status, {"error": "Loading model"})
    check_rewards(objectives(server, retries=9))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("retries", "asked"), [(9, 3), (1, 2), (0, 1)])
def test_a_trial_that_nothing_answers_is_made_again(server: Server, retries: int, asked: int) -> None:
    """A server drops every connection but the last that is allowed, and then that one, too."""

    def drops(request: dict[str, Any], before: int) -> Answer:
        raise ConnectionResetError

    server.behave = lambda request, before: (by_length if len(server.requests) == asked else drops)(request, before)
    check_rewards(objectives(server, retries=retries))
    assert len(server.requests) == asked
    server.requests.clear()
    server.behave = drops
    with pytest.raises(SipoError, match="Name a colour"):
        check_rewards(objectives(server, retries=retries))
    assert len(server.requests) == asked


def test_who_refuses_everything_is_stopped_and_asked_again(server: Server) -> None:
    many = items(*(f"{'a' * n}" for n in range(1, 21)))
    server.behave = lambda request, before: (
        sleep(0.3 * (response_of(request) == "a")) or REFUSED
    )  # the first comes last
    with pytest.raises(SipoError, match="refused all 20, the first the response 'a' .* nothing of it is kept"):
        score_responses(objectives(server), many, None, Progress(quiet=True))
    assert math.isnan(score_responses(objectives(server), many[:3])["long"][0])
    server.behave = lambda request, before: REFUSED if len(response_of(request)) > 4 else by_length(request, before)
    for _ in range(2):
        scores = score_responses(objectives(server), many)["long"]
        assert scores[:4] == [1, 2, 3, 4] and all(map(math.isnan, scores[4:]))
    assert server.seen()["a" * 20] == 2, "kept with the scores"
    more = [*many, *items(*("b" * n for n in range(5, 30)))]
    assert all(map(math.isnan, score_responses(objectives(server), more)["long"][4:])), "it has been heard before"


@pytest.mark.parametrize(
    "finish", ["SAFETY", "content_filter: PROHIBITED_CONTENT", "RECITATION", "Blocklist", "refusal"]
)
@pytest.mark.parametrize("message", [None, {"role": "assistant"}, {"content": ""}, {"content": '{"lo'}])
def test_a_stop_for_its_content_is_a_refusal(finish: str, message: Any) -> None:
    assert finish in read_answer(reply(completion(message, finish_reason=finish))).refusal
    assert not read_answer(reply(GOOD)).refusal


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("I'm sorry, I can't, hunter2secret", "I'm sorry, I can't, ***"),
        ("hunter2secret says 7", "***"),
        ((200, completion({"content": None, "refusal": "not with hunter2secret"})), "not with ***"),
        (
            (400, {"error": {"code": "content_filter", "message": "hunter2secret: content policy"}}),
            "***: content policy",
        ),
        ((401, b'{"error": {"message": "got hunter\\u0032secret"}}'), "got ***"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "Basic ", "Token "])
def test_a_key_that_comes_back_is_neither_shown_nor_kept(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    said: Any,
    shown: str,
    scheme: str,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{scheme}hunter2secret")
    answer = (200, said) if isinstance(said, str) else said
    server.behave = lambda request, before: answer if response_of(request) == "bad" else by_length(request, before)
    line = ""
    try:
        score_responses(objectives(server, key_variable="JUDGE_KEY", retries=0), items("a", "bad"), None, Progress())
    except SipoError as error:
        line = str(error)
    line += capsys.readouterr().out
    assert shown in line and "hunter2" not in line
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept and b"hunter2" not in kept


def test_a_key_that_stands_for_none_hides_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "EMPTY")
    server.behave = lambda request, before: (400, {"error": {"message": "EMPTY body"}})
    with pytest.raises(SipoError, match=re.escape("400 (EMPTY body)")):
        score_responses(objectives(server, key_variable="JUDGE_KEY"), items("a"))


LONG = "aB3" * 8
REFUSED_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"judge": f"http://h/sk-{LONG}/v1"}, "without a key in its path"),
    ({"judge": f"http://h/v1/%73k-{LONG}"}, "without a key in its path"),
    ({"judge": "http://h/v1/chat/completions"}, "without /chat/completions"),
    ({"judge": "http://h/v1/chat/completions/?a=1"}, "without /chat/completions"),
    ({"key_variable": f"sk-proj-{LONG}"}, "not the key itself"),
    ({"key_variable": f"hf_{LONG}"}, "not the key itself"),
    ({"key_variable": "$JUDGE_KEY"}, "name of an environment variable"),
    ({"key_variable": ""}, "name of an environment variable"),
    ({"key_header": "Content-Type"}, "HTTP itself"), ({"key_header": "host"}, "HTTP itself"),
    ({"key_header": "Accept-Encoding"}, "HTTP itself"), ({"key_header": "TRANSFER-ENCODING"}, "HTTP itself"),
    ({"options": {"messages": []}}, "messages must be left out"), ({"options": {"model": "x"}}, "model must be left out"),
    ({"options": {"extra_body": {"top_k": 1}}}, "write its fields beside the others"),
    ({"options": {"extra_headers": {}}}, "write its fields beside the others"),
    ({"options": {"stream": "yes"}}, "stream must be left out"),
    ({"options": {"api_key": "x"}}, "hold no key"), ({"options": {"a": [{"Authorization": "x"}]}}, "hold no key"),
    ({"options": {"user": f"sk-{LONG}"}}, "hold no key"), ({"options": {"a": "\ud83d"}}, "plain JSON"),
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"options": {"max_tokens": 9, "stop_token_ids": [1], "chat_template_kwargs": {"enable_thinking": False}}},
    {"options": {"stream": False, "response_format": {"type": "json_object"}, "prompt_cache_key": "mine"}},
    {"judge": "https://gateway.example/v1/0123456789abcdef0123456789abcdef/mine/openai"},
    {"judge": "https://h/openai/deployments/gpt-4o-2024-08-06-of-ours?api-version=2024-12-01-preview"},
    {"key_variable": "JUDGE_KEY_2"}, {"key_header": "api-key"}, {"key_header": "Cookie"},
]  # fmt: skip


@pytest.mark.parametrize(("settings", "words"), REFUSED_SETTINGS)
def test_settings_that_would_send_or_show_something_else(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)) as caught:
        Judge(**{"judge": "http://h/v1", "model": "m", **settings})
    assert LONG not in " ".join(each["msg"] for each in caught.value.errors())


@pytest.mark.parametrize("settings", TAKEN)
def test_settings_of_real_servers(settings: dict[str, Any]) -> None:
    judge = Judge(**{"judge": "http://h/v1", "model": "m", **settings})
    assert Judge.model_validate(json.loads(judge.model_dump_json())) == judge


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("http://me:pw@h:1/v2?key=x#y", "http://h:1/v2"), ("/login?token=x", "/login"), ("//me@h/a", "//h/a"),
        ("https://h", "https://h"), ("http://[::1", "an address that is no URL"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_may_be_secret(where: str, shown: str) -> None:
    assert address_of(where) == shown
