"""The endpoint as the official client sees it: its texts are those of `generate`, whoever else asks."""

import asyncio
import json
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from starlette.requests import ClientDisconnect

from sipo.errors import SipoError
from sipo.finished.handle import FinishedRun
from sipo.message import Message
from sipo.serve.app import _Stream, application
from sipo.serve.keys import Keys
from sipo.serve.wire import ApiError, ChatRequest, CompletionRequest, read

PROMPTS = ("how do I", "the sun is warm and the water is cold, so keep", "tell me")
SHARES = ({"detail": 0.3, "brevity": 0.7}, {"detail": 1.0, "brevity": 0.0}, {"detail": 0.5, "brevity": 0.5})
NEW = 10
Start = Callable[..., Any]


def client(server: Any, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def chat(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def everything(run: FinishedRun) -> list[tuple[str, str, dict[str, float] | None]]:
    """Prompts, and every method at its weights."""
    asked = []
    for place, method in enumerate(run.methods):
        if method in ("best-of-n", "prompting"):
            continue
        for at, shares in enumerate(SHARES):
            steered = run.at(shares, method).weights is not None
            if steered or at == 0:
                asked.append((PROMPTS[(place + at) % 3], method, shares if steered else None))
    return asked


def test_greedy_texts_of_every_method_are_generate_s_alone_and_among_others(
    serving: Start, opened: FinishedRun
) -> None:
    asked = everything(opened)
    assert {method for _, method, _ in asked} >= {
        "base",
        "soups",
        "factor-soups",
        "mod",
        "mod-jensen-shannon",
        "policy:detail",
    }
    expected = [
        opened.at(shares, method).generate(prompt, temperature=0, max_new_tokens=NEW)
        for prompt, method, shares in asked
    ]
    with client(serving()) as ours:

        def ask(given: tuple[str, str, dict[str, float] | None]) -> str | None:
            prompt, method, shares = given
            answer = ours.chat.completions.create(
                model=f"tiny/{method}", messages=chat(prompt), temperature=0, max_tokens=NEW,
                extra_body={"weights": shares} if shares else None,
            )  # fmt: skip
            return answer.choices[0].message.content

        assert [ask(each) for each in asked[::5]] == expected[::5]
        chance = random.Random(4)
        places = [chance.randrange(len(asked)) for _ in range(max(33, len(asked)))] + list(range(len(asked)))

        def late(place: int) -> str | None:
            time.sleep(0.3 * chance.random())
            return ask(asked[place])

        with ThreadPoolExecutor(33) as pool:
            assert list(pool.map(late, places)) == [expected[place] for place in places]


def test_a_seed_gives_generate_s_texts_and_n_its_following_ones(serving: Start, opened: FinishedRun) -> None:
    model = opened.at(SHARES[0], "mod")
    expected = model.generate([PROMPTS[0]] * 3, seed=5, temperature=1.2, top_p=0.9, max_new_tokens=NEW)
    with client(serving()) as ours:
        answer = ours.chat.completions.create(
            model="tiny/mod:detail=0.3,brevity=0.7", messages=chat(PROMPTS[0]), n=3, seed=5, temperature=1.2, top_p=0.9,
            max_tokens=NEW,
        )  # fmt: skip
        assert [choice.message.content for choice in answer.choices] == expected and len(set(expected)) > 1
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        other = ours.chat.completions.create(model="tiny", messages=chat(PROMPTS[0]), temperature=1.2, n=2)
        again = ours.chat.completions.create(model="tiny", messages=chat(PROMPTS[0]), temperature=1.2, n=2)
        assert [c.message.content for c in other.choices] != [c.message.content for c in again.choices]


def test_an_answer_s_message_is_sent_back_as_it_came(serving: Start) -> None:
    """As clients keep a conversation: the object, or all of its fields, most of them null."""
    with client(serving()) as ours:
        said = ours.chat.completions.create(model="tiny", messages=chat("x"), temperature=0, max_tokens=4)
        message, asked = said.choices[0].message, {"model": "tiny", "temperature": 0, "max_tokens": 4}
        plain = {"role": "assistant", "content": message.content}
        answers = [
            ours.chat.completions.create(messages=[*chat("x"), again, *chat("y")], **asked)  # type: ignore[call-overload]
            for again in (plain, message, message.model_dump())
        ]
        assert len({answer.choices[0].message.content for answer in answers}) == 1
        nothing = dict.fromkeys(("tools", "tool_choice", "functions", "response_format"))
        assert ours.chat.completions.create(messages=chat("x"), extra_body=nothing, **asked)  # type: ignore[call-overload]


def test_more_answers_than_may_wait_are_refused_before_any_prompt_is_read(serving: Start) -> None:
    server = serving(waiting=70)
    began = time.monotonic()
    with client(server) as ours:
        with pytest.raises(
            openai.BadRequestError, match="400000 answers at once are too many here; ask for at most 70"
        ):
            ours.completions.create(model="tiny", prompt=["a"] * 20_000, n=20)
        assert time.monotonic() - began < 5
        assert len(ours.completions.create(model="tiny", prompt=["a"] * 20, n=3, max_tokens=1).choices) == 60


def test_best_of_n_is_given_whole(serving: Start, opened: FinishedRun) -> None:
    model = opened.at(SHARES[0], "best-of-n")
    expected = [model.generate(prompt, seed=3, temperature=1.0, max_new_tokens=NEW) for prompt in PROMPTS]
    with client(serving()) as ours, ThreadPoolExecutor(6) as pool:

        def ask(prompt: str) -> str:
            stream = ours.chat.completions.create(
                model="tiny/best-of-n:detail=0.3,brevity=0.7", messages=chat(prompt), seed=3, temperature=1.0,
                max_tokens=NEW, stream=True,
            )  # fmt: skip
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

        assert list(pool.map(ask, PROMPTS)) == expected
        with pytest.raises(openai.BadRequestError, match="temperature 0"):
            ours.chat.completions.create(model="tiny/best-of-n", messages=chat("x"), temperature=0)


def test_an_answer_says_its_weight_and_the_nearest_point_that_was_measured(serving: Start, opened: FinishedRun) -> None:
    with client(serving()) as ours:
        answer = ours.chat.completions.create(model="tiny/mod:detail=0.4,brevity=0.6", messages=chat("x"))
        about: Any = answer.model_extra["sipo"]  # type: ignore[index]
        assert answer.model == "tiny/mod:detail=0.4,brevity=0.6"
        assert about["weights"] == {"detail": 0.4, "brevity": 0.6} and about["method"] == "mod"
        points: Any = opened.fronts
        near = next(p for p in points["methods"]["mod"]["points"] if p["weights"]["detail"] == 0.5)
        expected = {"weights": near["weights"], "rewards": near["rewards"], "interval": None, "prompts": 1}
        assert about["nearest"] == expected, "one prompt was measured, which has no interval"
        first = next(iter(ours.chat.completions.create(model=answer.model, messages=chat("x"), stream=True)))
        assert first.model_extra["sipo"] == about  # type: ignore[index]


def test_a_stream_is_the_whole_in_pieces(serving: Start) -> None:
    asked: Any = {
        "model": "tiny/mod", "messages": chat(PROMPTS[1]), "seed": 8, "temperature": 1.0, "n": 2, "max_tokens": 24,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    with client(serving()) as ours:
        whole = ours.chat.completions.create(**asked)
        chunks = list(ours.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts, logprobs, finish = ["", ""], [[], []], [None, None]  # type: ignore[var-annotated]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            logprobs[choice.index] += choice.logprobs.content if choice.logprobs else []
            finish[choice.index] = choice.finish_reason or finish[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert [[t.logprob for t in each] for each in logprobs] == [
        pytest.approx([t.logprob for t in c.logprobs.content], abs=1e-3)
        for c in whole.choices  # type: ignore[union-attr]
    ]
    assert finish == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens >= sum(map(len, logprobs))  # type: ignore[union-attr]
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 10


def test_log_probabilities_are_the_run_s(serving: Start, opened: FinishedRun) -> None:
    """`logprobs` ends the text, so it is told of one that ended by itself."""
    with client(serving()) as ours:
        for seed in range(50):
            answer = ours.chat.completions.create(
                model="tiny/mod:detail=0.3,brevity=0.7", messages=chat(PROMPTS[0]), temperature=1.0, seed=seed,
                max_tokens=8, logprobs=True, top_logprobs=3,
            ).choices[0]  # fmt: skip
            told: Any = answer.logprobs.content  # type: ignore[union-attr]
            assert all(len(token.top_logprobs) == 3 for token in told)
            assert all(token.logprob <= token.top_logprobs[0].logprob for token in told)
            joined = b"".join(bytes(token.bytes) for token in told if token.bytes is not None)
            if all(token.bytes is not None for token in told):
                assert joined.decode().strip() == answer.message.content
            if answer.finish_reason == "length" and answer.message.content:
                break
    text = opened.task.codec.tokenizer.encode(answer.message.content, add_special_tokens=False)
    assert told and len(told) <= 8 and text


def test_stop_strings_cut_and_finish(serving: Start, opened: FinishedRun) -> None:
    whole = opened.at(SHARES[0], "soups").generate(PROMPTS[1], temperature=0, max_new_tokens=30)
    stops = [whole[4:6], "never said"]
    with client(serving()) as ours:
        asked: Any = {"model": "tiny/soups:detail=0.3,brevity=0.7", "messages": chat(PROMPTS[1]), "temperature": 0}
        answer = ours.chat.completions.create(**asked, max_tokens=30, stop=stops)
        assert answer.choices[0].message.content == whole.partition(stops[0])[0]
        assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens < 30  # type: ignore[union-attr]
        pieces = ours.chat.completions.create(**asked, max_tokens=30, stop=stops, stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.partition(stops[0])[0]
        one = ours.chat.completions.create(**asked, max_tokens=1)
        assert one.choices[0].finish_reason == "length" and one.usage.completion_tokens == 1  # type: ignore[union-attr]


def test_completions_go_on_from_texts_and_tokens(serving: Start, opened: FinishedRun) -> None:
    codec = opened.task.codec
    rendered = codec.tokenizer.apply_chat_template(chat(PROMPTS[0]), add_generation_prompt=True, tokenize=False)
    expected = opened.at(SHARES[0], "mod").generate(PROMPTS[0], temperature=0, max_new_tokens=NEW)
    asked: Any = {"model": "tiny/mod:detail=0.3,brevity=0.7", "temperature": 0, "max_tokens": NEW}
    ids = codec.encode_prompt([Message("user", PROMPTS[0])])
    with client(serving()) as ours:
        for prompt in (rendered, [rendered], ids, [ids]):
            answer = ours.completions.create(**asked, prompt=prompt, logprobs=2)
            assert answer.choices[0].text == expected
            assert answer.choices[0].logprobs is not None and len(answer.choices[0].logprobs.tokens or ()) <= NEW
        both = ours.completions.create(**asked, prompt=[rendered, "the sun"], n=2)
        assert [choice.text for choice in both.choices[:2]] == [expected] * 2 and len(both.choices) == 4
        assert (
            "".join(c.choices[0].text for c in ours.completions.create(**asked, prompt=rendered, stream=True))
            == expected
        )


def test_models_can_be_listed_and_looked_at(serving: Start, opened: FinishedRun) -> None:
    with client(serving()) as ours:
        names = [model.id for model in ours.models.list()]
        assert names == ["tiny", *(f"tiny/{method}" for method in opened.methods)]
        found = ours.models.retrieve("tiny/mod:detail=1,brevity=3")
        assert found.model_extra["sipo"]["weights"] == {"detail": 0.25, "brevity": 0.75}  # type: ignore[index]
        with pytest.raises(openai.NotFoundError):
            ours.models.retrieve("other")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"), ({"messages": []}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
    ({"messages": chat("")}, "messages"), ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"temperature": -1}, "temperature"), ({"temperature": "hot"}, "temperature"), ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"), ({"n": 1000}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**6}, "max_tokens"),
    ({"tools": []}, "tools"), ({"frequency_penalty": 0.5}, "frequency_penalty"), ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"stop": [""]}, "stop"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"), ({"kind": 1}, "kind"),
    ({"weights": {"detail": "much"}}, "weights"), ({"weights": {"kind": 1}}, "weights"), ({"top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"seed": 1.5}, "seed"), ({"stream": 1}, "stream"), ({"max_tokens": 4000}, "messages"),
]  # fmt: skip


PYDANTIC = "nput should|should have|valid|after"
"""Its own words, which speak of its types."""


@pytest.mark.parametrize(("change", "param"), REFUSED, ids=str)
def test_bad_requests_are_told_in_openai_s_form(serving: Start, change: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "messages": chat("tell me of the sun " * 8), "max_tokens": 5, **change}
    answer = httpx.post(f"{serving().url}/v1/chat/completions", json={k: v for k, v in body.items() if v is not None})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and error["message"] and "\n" not in error["message"]
    assert not re.search(PYDANTIC, error["message"])


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_whatever_stands_in_a_field_is_refused_in_plain_words(
    kind: type[ChatRequest] | type[CompletionRequest],
) -> None:
    good = {"model": "tiny", "messages": chat("x"), "prompt": "x"}
    fields = [name for name in kind.model_fields if name not in ("logprobs", "top_logprobs")]
    values: list[Any] = [
        5,
        -1,
        1e9,
        1.5,
        "x",
        "",
        [],
        [3],
        [""],
        ["x"] * 200,
        [[1, "x"]],
        {},
        {"a": 1},
        {"a": []},
        True,
    ]
    refused = []
    for name in (*fields, "logprobs", "top_logprobs", "kind"):
        for value in values:
            body = {key: each for key, each in good.items() if key in kind.model_fields} | {name: value}
            try:
                read(kind, json.dumps(body).encode())
            except ApiError as error:
                refused.append((name, error))
    for name, error in refused:
        assert error.status == 400 and error.body["error"]["param"] == name
        assert f"`{name}" in error.message and not re.search(PYDANTIC, error.message), error.message
    assert len(refused) > 8 * len(fields)


def test_what_is_no_request_is_refused(serving: Start) -> None:
    url = serving(body=5000).url
    for body, status in ((b"{", 400), (b"", 400), (b"[]", 400), (b'{"model": "\xff"}', 400), (b"x" * 6000, 413)):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body)
        assert answer.status_code == status and answer.json()["error"]["message"]
    for path, status in (("/v1/nothing", 404), ("/v1/chat/completions", 405)):
        answer = httpx.get(url + path)
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"
        assert (answer.headers.get("Allow") == "POST") == (status == 405)
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        answer = httpx.head(url + path)
        assert answer.status_code == 200 and not answer.content


def test_web_pages_from_elsewhere_ask_where_that_is_allowed(serving: Start) -> None:
    asked = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}

    async def allowed(*origins: str) -> str | None:
        app = application(serving().service, Keys(["sk-one"]), origins)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as ours:
            answer = await ours.options("/v1/chat/completions", headers=asked)
            return answer.headers.get("Access-Control-Allow-Origin")

    told = [asyncio.run(allowed(*origins)) for origins in ((), ("http://other",), ("http://page",), ("*",))]
    assert told == [None, None, "http://page", "*"]


def test_keys_are_asked_for_and_never_told(serving: Start, capfd: pytest.CaptureFixture[str]) -> None:
    server = serving("sk-one", "sk-two")
    for key in ("sk-one", "sk-two"):
        with client(server, key) as ours:
            assert ours.models.list().data
    with client(server, "sk-three") as other, pytest.raises(openai.AuthenticationError) as refused:
        other.chat.completions.create(model="tiny", messages=chat("x"))
    assert "sk-" not in str(refused.value)
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == httpx.get(f"{server.url}/metrics").status_code == 200
    said = capfd.readouterr()
    assert "sk-" not in said.out + said.err


def test_metrics_count_tokens_by_weight(serving: Start) -> None:
    server = serving()

    def value(name: str) -> float:
        page = httpx.get(f"{server.url}/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))

    at = 'run="tiny",weights="detail=0.7,brevity=0.3"}'
    names = [f'{name}{{method="mod",{at}' for name in ("sipo_tokens_total", "sipo_time_to_first_token_seconds_count")]
    before = [value(name) for name in names]
    with client(server) as ours:
        used = ours.chat.completions.create(
            model="tiny/mod:detail=.68,brevity=.32", messages=chat("x"), max_tokens=6
        ).usage
    assert used is not None
    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [used.completion_tokens, 1]
    assert value('sipo_running{run="tiny"}') == value('sipo_waiting{run="tiny"}') == 0


class Held:
    """The model's thread stands still meanwhile, before its next step."""

    def __init__(self, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        step = server.scheduler._batch.step
        monkeypatch.setattr(server.scheduler._batch, "step", lambda: (self.go.wait(20), step())[1])


def test_a_full_queue_says_when_to_ask_again(serving: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serving(rows=2, waiting=2)
    held = Held(server, monkeypatch)
    with client(server) as ours, ThreadPoolExecutor(4) as pool:
        asks = [pool.submit(ours.chat.completions.create, model="tiny/mod", messages=chat("x"), max_tokens=3)]
        server.until(lambda: server.scheduler.running == 1)
        asks += [
            pool.submit(ours.chat.completions.create, model="tiny/mod", messages=chat("x"), max_tokens=3) for _ in "ab"
        ]
        server.until(lambda: server.scheduler.waiting == 2)
        with pytest.raises(openai.RateLimitError) as refused:
            ours.chat.completions.create(model="tiny/mod", messages=chat("x"))
        assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 60
        held.go.set()
        assert all(ask.result().choices[0].finish_reason for ask in asks)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_frees_the_place(serving: Start, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    server = serving(rows=2, waiting=2)
    held = Held(server, monkeypatch)
    body = {"model": "tiny/mod", "messages": chat("x"), "max_tokens": 100, "temperature": 5.0, "stream": stream}

    async def go() -> None:
        async with httpx.AsyncClient(timeout=0.3) as ours:
            with pytest.raises(httpx.ReadTimeout):
                await ours.post(f"{server.url}/v1/chat/completions", json=body)

    asyncio.run(go())
    (ask,) = server.scheduler._running
    server.until(lambda: ask.gone)
    held.go.set()
    server.until(lambda: server.scheduler.idle)
    assert len(ask.answers[0].tokens) <= 2


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_who_goes_away_before_the_first_piece_frees_the_place(version: str) -> None:
    started, left = [], []

    async def pieces() -> Any:
        started.append(True)
        yield b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if version == "2.4":
            raise OSError("nobody is there")
        await asyncio.sleep(60)

    async def go() -> None:
        scope: Any = {"type": "http", "asgi": {"spec_version": version}}
        await _Stream(pieces(), lambda: left.append(True))(scope, receive, send)

    if version == "2.4":
        with pytest.raises(ClientDisconnect):
            asyncio.run(go())
    else:
        asyncio.run(go())
    assert left and not started


def test_keys_that_are_none_open_nothing(tmp_path: Path) -> None:
    with pytest.raises(SipoError, match="SIPO_API_KEYS: holds no key"):
        Keys.found({"SIPO_API_KEYS": " , "}, None)
    file = tmp_path / "keys"
    file.write_bytes("\ufefffirst\nsecond\n".encode())
    keys = Keys.found({"SIPO_API_KEYS": "third"}, file)
    for key in ("first", "second", "third"):
        keys.check(f"Bearer {key}")
    assert len(keys) == 3 and not Keys.found({"SIPO_API_KEYS": ""}, None)


def test_what_takes_too_long_is_cut(serving: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serving(rows=2, seconds=0.2)
    step = server.scheduler._batch.step
    monkeypatch.setattr(server.scheduler._batch, "step", lambda: (time.sleep(0.02), step())[1])
    monkeypatch.setattr(server.scheduler._batch, "stops", ())  # whatever is drawn
    with client(server) as ours, ThreadPoolExecutor(2) as pool:
        asked: Any = {"model": "tiny/mod", "messages": chat("x"), "max_tokens": 150, "temperature": 5.0}
        first = pool.submit(ours.chat.completions.create, **asked)
        server.until(lambda: server.scheduler.running == 1)
        second = pool.submit(ours.chat.completions.create, **asked)
        assert first.result().choices[0].finish_reason == "length"
        assert first.result().usage.completion_tokens < 100  # type: ignore[union-attr]
        assert second.exception() is None or isinstance(second.exception(), openai.InternalServerError)


def test_a_model_that_fails_fails_those_who_asked_and_no_others(
    serving: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(rows=2)
    with client(server) as ours:

        def broken() -> None:
            raise RuntimeError("no memory")

        monkeypatch.setattr(server.scheduler._batch, "step", broken)
        with pytest.raises(openai.InternalServerError, match="no memory"):
            ours.chat.completions.create(model="tiny/mod", messages=chat("x"))
        assert ours.chat.completions.create(model="tiny/mod", messages=chat("x"), max_tokens=2).choices
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_two_hundred_streams_are_all_answered_and_none_is_mixed_up(serving: Start, opened: FinishedRun) -> None:
    """In a batch of 24 rows: most of them wait for room, and come and go at every step."""
    server, many = serving(rows=24), 200
    kinds = [(prompt, method, at) for prompt in PROMPTS for method in ("mod", "soups", "mod-alpha") for at in range(3)]
    expected = [
        opened.at(SHARES[at], method).generate(prompt, temperature=1.0, seed=seed, max_new_tokens=8)
        for seed, (prompt, method, at) in enumerate(kinds)
    ]
    assert len(set(expected)) > 20

    async def ask(ours: AsyncOpenAI, number: int) -> str:
        seed = number % len(kinds)
        prompt, method, at = kinds[seed]
        text = ""
        async for chunk in await ours.chat.completions.create(
            model=f"tiny/{method}", messages=chat(prompt), temperature=1.0, seed=seed, max_tokens=8, stream=True,
            extra_body={"weights": SHARES[at]},
        ):  # fmt: skip
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as ours:
            return await asyncio.gather(*(ask(ours, number) for number in range(many)))

    assert asyncio.run(all_of_them()) == [expected[number % len(kinds)] for number in range(many)]
    server.until(lambda: server.scheduler.idle)
