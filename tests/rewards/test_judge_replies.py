"""Whatever an endpoint replies is a score, another try, a refusal, or one line with its first words."""

import gzip
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from endpoint import Server, by_length, items, objectives, response_of, server
from hypothesis import given, settings
from hypothesis import strategies as st

from sipo.errors import SipoError
from sipo.plain import plain
from sipo.rewards import check_rewards, score_responses
from sipo.rewards.endpoint import Endpoint
from sipo.rewards.forms import parse
from sipo.rewards.judge import without_reasoning
from sipo.rewards.reply import Answer, PassingError, RefusalError, Reply, read_answer

__all__ = ["server"]

GOOD = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": '{"long": 7}', "refusal": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {"total_tokens": 3},
}


def fit(line: str) -> bool:
    """To be printed: one line without a command to the terminal."""
    return plain(line) == line and "\n" not in line


def completion(message: Any = None, **choice: Any) -> dict[str, Any]:
    return {**GOOD, "choices": [{**GOOD["choices"][0], "message": message, **choice}]}  # type: ignore[dict-item,index]


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


SCORES = {
    "as it should be": GOOD,
    "parts": completion({"content": [{"type": "text", "text": '{"lo'}, {"type": "text", "text": 'ng": 7}'}]}),
    "parts of texts": completion({"content": ['{"long": ', "7}"]}),
    "parts and thoughts": completion({"content": [{"type": "thinking", "thinking": "{}"}, {"text": '{"long": 7}'}]}),
    "thoughts apart": completion({"content": '{"long": 7}', "reasoning_content": '{"long": 3}'}),
    "an empty error beside it": {**GOOD, "error": None},
    "cut, but whole": completion({"content": '{"long": 7}'}, finish_reason="length"),
    "refused, but answered": completion({"content": '{"long": 7}', "refusal": "I should not"}),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "bytes that are no text": json.dumps(completion({"content": 'caf\u00e9 {"long": 7}'}), ensure_ascii=False).encode(
        "latin-1"
    ),
    "a lone surrogate": json.dumps(completion({"content": '\ud83d {"long": 7}'})).encode(),
}


@pytest.mark.parametrize("case", SCORES)
def test_a_reply_with_an_answer_is_read(case: str) -> None:
    answer = read_answer(reply(SCORES[case]))
    assert parse(without_reasoning(answer.text), ["long"], 1, 10) == [7]


LINES: dict[str, tuple[Any, list[str]]] = {
    "HTML": (b"<!doctype html>\n<html><body>Sign in to Airport WiFi", ["no chat completion (HTML: '<!doctype html>", "/v1?"]),
    "text": (b"upstream connect error\x1b[2J", ["it begins 'upstream connect error\ufffd[2J'"]),
    "events": (b'data: {"choices": []}\n\ndata: [DONE]', ["a stream of events: 'data:"]),
    "nothing": (b"", ["no chat completion (nothing: '')"]),
    "a list": ([], ["it begins '[]'"]),
    "null": (None, ["it begins 'null'"]),
    "a text": ("hello", ["""it begins '"hello"'"""]),
    "a number": (7, ["it begins '7'"]),
    "broken": (b"{not json", ["it begins '{not json'"]),
    "no message": ({"choices": [{"index": 0}]}, ["no chat completion"]),
    "another protocol": ({"choices": [{"text": "7"}]}, ["no chat completion"]),
    "a text for choices": ({"choices": "7"}, ["no chat completion"]),
    "too deep": (b"[" * 100_000, ["it begins '[["]),
    "long": (b"x" * 1000, ["'" + "x" * 80 + "...'"]),
    "an error": ({"error": {"message": "credits exhausted", "code": 402}}, ["answered 402 (credits exhausted", "see the account"]),
    "an error and no choices": ({"choices": None, "error": "overloaded"}, ["answered an error (overloaded)"]),
    "an error in the choice": ({"choices": [{"error": {"code": 502, "message": "bad gateway"}, "message": {"content": ""}}]}, ["502", "bad gateway"]),
    "an error without words": ({"choices": [], "error": {"code": None, "why": 3}}, ["answered an error", '"why": 3']),
    "details": ({"detail": [{"loc": ["body"], "msg": "field required"}]}, ["field required"]),
    "a message": ({"object": "error", "message": "no such route", "code": 404}, ["no such route"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_a_reply_without_one_is_a_line(case: str) -> None:
    body, words = LINES[case]
    with pytest.raises(SipoError) as caught:
        read_answer(reply(body))
    line = str(caught.value)
    assert all(word in line for word in words), line
    assert fit(line) and len(line) < 500


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"error": {"message": "slow down", "code": 429}}, PassingError),
        (200, {"error": {"message": "overloaded", "code": "503"}}, PassingError),
        (200, {"error": {"message": "who?", "code": 401}}, SipoError),
        (200, b"<html>", PassingError),
        (408, {}, PassingError), (409, {}, PassingError), (429, {}, PassingError), (500, b"", PassingError),
        (502, b"<html>", PassingError), (529, {}, PassingError),
        (400, {"error": {"message": "temperature?"}}, SipoError), (401, {}, SipoError), (404, b"", SipoError),
        (413, b"", SipoError), (422, {"detail": "no"}, SipoError), (301, b"", SipoError),
        (400, {"error": {"code": "content_filter", "message": "The prompt triggered our content management policy"}}, RefusalError),
        (400, {"error": {"code": "400", "message": "bad", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, RefusalError),
        (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}, RefusalError),
        (400, {"error": {"message": "Invalid prompt: it was flagged as violating our usage policy"}}, RefusalError),
        (403, {"error": {"message": "requires moderation", "metadata": {"reasons": ["violence"], "flagged_input": "x"}}}, RefusalError),
        (200, {"choices": None, "error": {"message": "PROHIBITED_CONTENT"}}, RefusalError),
        (429, {"error": {"message": "the moderation service is busy"}}, PassingError),
        (401, {"error": {"message": "content_filter"}}, SipoError),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again_and_what_is_refused_is_not(status: int, body: Any, kind: type[SipoError]) -> None:
    with pytest.raises(SipoError) as caught:
        read_answer(reply(body, status))
    assert type(caught.value) is kind


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["error", "length", "{}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["error", "message", "code", "choices", "content", "text", "type", "refusal", "detail"]) | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
BESIDE = {**GOOD, "error": None, "detail": None}


def is_read(body: bytes, status: int, headers: dict[str, str]) -> None:
    """It is an answer of text, or a line."""
    try:
        answer = read_answer(Reply(status, headers, body))
    except SipoError as error:
        assert fit(str(error)) and len(str(error)) < 700  # noqa: PT017
        return
    assert isinstance(answer, Answer) and all(isinstance(each, str) for each in answer)
    try:
        assert 1 <= parse(without_reasoning(answer.text), ["long"], 1, 10)[0] <= 10
    except ValueError as error:
        assert str(error)  # noqa: PT017


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(places(BESIDE))), JSON, st.sampled_from([200, 200, 200, 400, 403, 429, 500]))
def test_any_value_at_any_place_of_a_reply_is_read(path: tuple[Any, ...], value: Any, status: int) -> None:
    is_read(json.dumps(put(BESIDE, path, value)).encode(), status, {})


@settings(max_examples=200, deadline=None)
@given(st.binary(), st.integers(200, 599), st.text(max_size=20), st.text(max_size=20))
def test_any_bytes_under_any_status_are_read(body: bytes, status: int, wait: str, where: str) -> None:
    is_read(body, status, {"retry-after": wait, "location": where})


@given(
    st.text(), st.lists(st.sampled_from(["<think>", "</think>", "{", "}", '"long": 7', ",", '{"long": 7}', "\ud83d"]))
)
def test_any_answer_is_parsed_or_said_to_be_wrong(text: str, pieces: list[str]) -> None:
    try:
        assert parse(without_reasoning(text + "".join(pieces)), ["long"], 1, 10) == [7]
    except ValueError as error:
        assert str(error) == "there is no JSON object with the keys long"  # noqa: PT017


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('<think>The form is {"long": 1}. So...</think>\n{"long": 7}', 7),
        ('First draft: {"long": 3}\nFinal: {"long": 7}', 7),
        ('{"long": 7}\nNote: {long} counts {words}.', 7),
        ('{"why": "it is {long}"} {"long": 7} {"long": 9, "kind": 1}', 7),
        ('so {"long": 3} it was</think>{"long": 7}', 7),
        ('<Thinking>{"long": 1}</Thinking><think>{"long": 2}</think> {"long": 7} {', 7),
        ('```json\n{"long": 7}\n```', 7),
        ('{{"long": 7}}', 7),
        ('{"long": 3} <think>or rather {"long": 9}', 3),
        ('<think>{"long": 9}', None),
        ("7", None),
        ("7/10", None),
        ('{"long": 7} {"long": 11}', None),
        ('{"scores": {"long": 7}}', 7),
        ('{"long": 7, "kind": 3}', None),
        ('{"long": "{7}"}', None),
        ('{"long": 7, "instead of": {"long": 3}}', None),
    ],
)
def test_the_last_object_with_the_asked_keys_counts(answer: str, score: float | None) -> None:
    if score is not None:
        assert parse(without_reasoning(answer), ["long"], 1, 10) == [score]
    else:
        with pytest.raises(ValueError, match="JSON object|from 1 to 10|no number"):
            parse(without_reasoning(answer), ["long"], 1, 10)


def test_looking_for_objects_takes_no_longer_where_there_are_many_braces() -> None:
    started = time.monotonic()
    for text in ("{" * 200_000, '{"long":' * 25_000, '{"' * 100_000, '{"a": 1}' * 25_000):
        with pytest.raises(ValueError, match="JSON object"):
            parse(without_reasoning(text), ["long"], 1, 10)
    assert time.monotonic() - started < 10


UNUSABLE: dict[str, tuple[Any, str]] = {
    "cut": (completion({"content": "Well, "}, finish_reason="length"), "cut at the limit of its tokens, raise max_tokens in options"),
    "all thought": (completion({"content": None, "reasoning": "hm"}, finish_reason="length"), "went into reasoning, raise max_tokens"),
    "a tool": (completion({"content": None, "tool_calls": [{"id": "1"}]}, finish_reason="tool_calls"), "it calls a tool"),
    "a number": (completion({"content": 7}), "answered '' where there is no JSON object"),
    "surrogates": (completion({"content": "\ud83d\ud83d"}), "answered '\ufffd\ufffd' where"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_answer_of_no_use_is_asked_for_again_and_then_said(server: Server, case: str) -> None:
    body, words = UNUSABLE[case]
    server.behave = lambda request, before: (200, body)
    with pytest.raises(SipoError, match=words):
        score_responses(objectives(server), items("a"))
    assert server.seen()["a"] == 3
    for request in server.requests:
        assert all(message["content"].strip() for message in request["messages"])


def test_a_reply_that_cannot_be_read_is_tried_again_as_a_failed_one(server: Server) -> None:
    bad = [b"<html>gateway</html>", b"", {"choices": None, "error": {"message": "busy", "code": 503}}]
    server.behave = lambda request, before: (200, bad[before]) if before < len(bad) else by_length(request, before)
    assert score_responses(objectives(server), items("aaaa"))["long"] == [4]
    assert server.seen()["aaaa"] == 4


class Raw(threading.Thread):
    """A server that answers every request with the same bytes, one piece after another."""

    def __init__(self, *pieces: bytes, gap: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.pieces, self.gap, self.asked = pieces, gap, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        self.asked += 1
        with connection:
            try:
                connection.recv(1 << 20)
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.gap)
            except OSError:
                return


def head(length: int, *lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {length}", "Connection: close", *lines, "", ""]).encode()


WHOLE = json.dumps(GOOD).encode()
RAW: dict[str, tuple[list[bytes], float, str]] = {
    "a byte now and then": ([head(10_000), *[b" "] * 200], 0.05, "no answer within 0.5 s, 2 times; raise timeout"),
    "a header now and then": ([b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 200], 0.05, "no answer within 0.5 s"),
    "bad gzip": ([head(len(WHOLE), "Content-Encoding: gzip"), WHOLE], 0, "cannot be unpacked"),
    "a cut body": ([head(len(WHOLE) + 5), WHOLE], 0, "cannot be reached"),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n"], 0, "cannot be reached"),
    "nothing at all": ([], 0, "cannot be reached"),
    "gzip of much": ([head(len(gzip.compress(b" " * (20 << 20))), "Content-Encoding: gzip"), gzip.compress(b" " * (20 << 20))], 0, "more than 4 MiB"),
    "a redirect": ([b"HTTP/1.1 307 Go\r\nLocation: http://me:pw@127.0.0.1:9/v2?key=hidden\r\nContent-Length: 0\r\n\r\n"], 0, "sends on to http://127.0.0.1:9/v2; name that"),
    "a header that is none": ([b"HTTP/1.1 200 OK\r\n\x00bad\r\n\r\n"], 0, "cannot be reached"),
    "for ever": ([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * (1 << 20)] * 8], 0, "more than 4 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("case", RAW)
def test_whatever_comes_over_the_wire_is_one_line_in_bounded_time(server: Server, case: str) -> None:
    pieces, gap, words = RAW[case]
    raw = Raw(*pieces, gap=gap)
    started = time.monotonic()
    with pytest.raises(SipoError) as caught:
        score_responses(objectives(server, judge=raw.url, timeout=0.5 if gap else 20.0, retries=1), items("a"))
    raw.socket.close()
    line = str(caught.value)
    assert words in line and fit(line) and "pw" not in line and "hidden" not in line, line
    assert time.monotonic() - started < 20 and raw.asked <= 2


def test_a_compressed_answer_is_read(server: Server) -> None:
    packed = gzip.compress(WHOLE)
    raw = Raw(head(len(packed), "Content-Encoding: gzip"), packed)
    assert score_responses(objectives(server, judge=raw.url), items("a"))["long"] == [7]
    raw.socket.close()


@pytest.mark.parametrize(("wait", "waited"), [("0.3", 0.3), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", 0.0)])
def test_the_endpoint_says_how_long_to_wait(server: Server, wait: str, waited: float) -> None:
    body = b'{"error": "busy"}'
    busy = (
        f"HTTP/1.1 429 Slow\r\nRetry-After: {wait}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    raw = Raw(busy + body)
    started = time.monotonic()
    with pytest.raises(SipoError, match=r"answered 429 \(busy\), 2 times; set requests_per_minute"):
        score_responses(objectives(server, judge=raw.url, retries=1), items("a"))
    raw.socket.close()
    assert time.monotonic() - started >= waited and raw.asked == 2


def test_a_wait_beyond_patience_is_said_and_not_done(server: Server) -> None:
    raw = Raw(b"HTTP/1.1 429 Slow\r\nRetry-After: 86400\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    with pytest.raises(SipoError, match="429 .*asks to wait 86400 s; go on then; set requests_per_minute"):
        score_responses(objectives(server, judge=raw.url), items("a"))
    raw.socket.close()
    assert raw.asked == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>Sign in", "no chat completion (HTML: '<html>Sign in')"),
        (401, {"error": {"message": "who?"}}, "answered 401 (who?); does the key fit?"),
        (403, b"<html>no", "answered 403"),
        (404, b"", ""),
        (500, b"<html>", ""),
        (200, b"", ""),
        (200, {"data": [{"id": 7}]}, ""),
    ],
)
def test_a_look_at_the_endpoint_refuses_what_could_not_judge(
    server: Server, status: int, body: Any, words: str
) -> None:
    server.models = status, body
    if not words:
        check_rewards(objectives(server))
        return
    with pytest.raises(SipoError) as caught:
        check_rewards(objectives(server))
    assert words in str(caught.value)


REFUSALS: dict[str, tuple[int, Any]] = {
    "the provider": (400, {"error": {"code": "content_filter", "message": "against our content policy"}}),
    "the filter over the answer": (200, completion({"content": ""}, finish_reason="content_filter")),
    "the model, in its field": (200, completion({"content": None, "refusal": "I will not, for our content policy"})),
    "the model, in words": (200, "I'm sorry, but I can't grade that."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_item_has_no_score_and_is_not_asked_about_again(
    server: Server, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    from sipo.progress import Progress

    server.behave = lambda request, before: (
        REFUSALS[case] if response_of(request) == "bad" else by_length(request, before)
    )
    for _ in range(2):
        found = score_responses(objectives(server, "long", "kind"), items("a", "bad", "aa"), None, Progress())
        assert found["long"][0] == 1 and found["long"][2] == 2 and math.isnan(found["long"][1] + found["kind"][1])
        told = capsys.readouterr().out
        assert "refused 1 of 3, the first the response 'bad' to 'why?': " in told and "they have no score" in told
    assert server.seen()["bad"] == (3 if case == "the model, in words" else 1)


def test_refusals_end_it_where_that_is_asked_for(server: Server) -> None:
    server.behave = lambda request, before: REFUSALS["the provider"]
    with pytest.raises(
        SipoError,
        match=r"'bad' to 'why\?': refused \(against our content policy, content_filter\); set on_refusal: skip",
    ):
        score_responses(objectives(server, on_refusal="stop"), items("bad"))
    server.behave = lambda request, before: (
        REFUSALS["the provider"] if response_of(request) == "bad" else by_length(request, before)
    )
    assert math.isnan(score_responses(objectives(server), items("bad", "good"))["long"][0])
    with pytest.raises(
        SipoError, match="refused 1 of 1, the first the response 'bad' .* set on_refusal: skip to go on"
    ):
        score_responses(objectives(server, on_refusal="stop"), items("bad"))


def test_surrogates_are_not_sent(server: Server) -> None:
    score_responses(objectives(server), items("a\ud83d"))
    assert response_of(server.requests[0]) == "a\ufffd"


def test_no_more_than_the_endpoint_is_needed_to_say_that_no_key_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "caf\u00e9")
    [objective] = objectives(type("Nowhere", (), {"url": "http://127.0.0.1:1/v1"})(), key_variable="JUDGE_KEY")  # type: ignore[arg-type]
    with pytest.raises(SipoError, match="JUDGE_KEY holds what no header can carry"):
        Endpoint(objective.reward)  # type: ignore[arg-type]
