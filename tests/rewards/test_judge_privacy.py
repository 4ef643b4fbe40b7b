"""What leaves this machine for a judge is the request and nothing else, and what is secret is neither written nor shown."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from endpoint import Server, items, objectives, server
from pydantic import ValidationError

from sipo.cli.main import main
from sipo.errors import SipoError
from sipo.rewards import check_rewards, score_responses
from sipo.rewards.kinds.judge import Judge, address_of
from sipo.rewards.objective import Objective

__all__ = ["server"]

ENVIRONMENT = {
    "OPENAI_API_KEY": "not yours",
    "OPENAI_ORG_ID": "our organisation",
    "OPENAI_PROJECT_ID": "our project",
    "OPENAI_BASE_URL": "http://127.0.0.1:1/elsewhere",
    "OPENAI_CUSTOM_HEADERS": "X-Mine: yes",
    "OPENAI_LOG": "debug",
    "HF_TOKEN": "hf_mine",
}
SENT = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}


def test_no_header_leaves_that_was_not_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    check_rewards(objectives(server))
    score_responses(objectives(server), items("a"))
    assert server.looked and server.headers
    for headers in (*server.looked, *server.headers):
        assert set(headers) <= SENT and headers["user-agent"] == "sipo"
        assert not any(value in str(headers) for value in ("not yours", "our ", "hf_mine", "mine", "python", "linux"))


@pytest.mark.parametrize(
    ("key", "header", "sent"),
    [
        ("abc", {}, ("authorization", "Bearer abc")),
        (" abc\n", {}, ("authorization", "Bearer abc")),
        ("Basic abc=", {}, ("authorization", "Basic abc=")),
        ("abc", {"key_header": "api-key"}, ("api-key", "abc")),
    ],
)
def test_a_key_goes_where_it_should(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str, header: dict[str, str], sent: tuple[str, str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    score_responses(objectives(server, key_variable="JUDGE_KEY", **header), items("a"))
    assert server.headers[0][sent[0]] == sent[1] and set(server.headers[0]) - SENT == {sent[0]}


def test_a_key_that_the_server_repeats_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hunter2")
    server.behave = lambda request, before: (400, {"error": {"message": "Bearer hunter2 is no model of ours"}})
    with pytest.raises(SipoError, match=re.escape("400 (Bearer *** is no model of ours)")):
        score_responses(objectives(server, key_variable="JUDGE_KEY"), items("a"))
    server.models = 401, {"error": {"message": "hunter2?"}}
    with pytest.raises(SipoError, match=re.escape("401 (***?); does the key fit?")):
        check_rewards(objectives(server, key_variable="JUDGE_KEY"))


SECRET = [
    "http://me:hunter2@h/v1", "http://hunter2@h/v1", "http://:hunter2@h:80/v1", "http://h/v1?key=hunter2",
    "http://h/v1?api_key=hunter2", "https://h/v1?api-version=1&access_token=hunter2", "http://h/v1?sig=hunter2",
    "http://h/v1?X-Amz-Signature=hunter2", "http://h/v1?a=1;secret=hunter2", "http://h/v1?%6bey=hunter2",
    "http://h/v1?code=hunter2", "http://h/v1?subscription-key=hunter2", "http://h/v1#hunter2",
    "http://h/v1?sk-hunter2hunter2hunter2", "http://h/v1?v=hunter2hunter2hunter2",
]  # fmt: skip


@pytest.mark.parametrize("url", SECRET)
def test_a_url_with_a_secret_is_refused_without_showing_it(
    url: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValidationError, match="without user, password or key.*name that as key_variable"):
        Judge(judge=url, model="m")
    assert "hunter2" not in address_of(url)
    command = ["data", "label", "--prompts", "p.jsonl", "--model", "m", "--to", str(tmp_path / "r.jsonl")]
    assert main([*command, "--objective", f"x={{judge: '{url}', model: m}}"]) == 2
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err and "name that as key_variable" in told.err


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "ftp://h/v1",
        "http://",
        "http:///v1",
        "http://h:x/v1",
        "http://[::1",
        "http://h /v1",
        "http://h/\x1b",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="judge must be a URL, such as http://localhost:8000/v1"):
        Judge(judge=url, model="m")


@pytest.mark.parametrize("options", [{"stream": True}, {"a": float("nan")}, {"a": {1, 2}}])
def test_what_cannot_be_sent_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="stream must be left out|must be plain JSON"):
        Judge(judge="http://h/v1", model="m", options=options)


def test_harmless_parameters_are_sent_and_not_shown(server: Server) -> None:
    asked = objectives(server, judge=f"{server.url}/?api-version=2024-12-01-preview-of-tomorrow&region=eu")
    check_rewards(asked)
    assert score_responses(asked, items("a")) == {"long": [1]}
    assert server.paths == [
        f"/v1/{path}?api-version=2024-12-01-preview-of-tomorrow&region=eu"
        for path in ("models", "chat/completions", "chat/completions")
    ]
    assert str(asked[0].reward) == f"judge tiny at {server.url}/"


def test_a_proxy_that_is_none_is_a_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://me:hunter2@proxy")
    monkeypatch.setenv("http_proxy", "nonsense://me:hunter2@proxy")
    with pytest.raises(SipoError, match="the network cannot be used .* look at the variables HTTP_PROXY") as caught:
        score_responses(objectives(server), items("a"))
    assert "hunter2" not in str(caught.value)


EXITS = {
    "sys.exit": "import sys; sys.exit(3)",
    "SystemExit": "raise SystemExit",
    "GeneratorExit": "raise GeneratorExit('x')",
    "CancelledError": "import asyncio; raise asyncio.CancelledError",
    "its own": "raise type('Gone', (BaseException,), {'__str__': lambda self: 1 / 0})",
}


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("when", ["import", "call"])
def test_a_reward_function_that_ends_everything_is_a_line(
    kind: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"leaving_{abs(hash((kind, when)))}"
    body = EXITS[kind]
    source = body if when == "import" else f"def it(prompts, responses):\n    {body}\n"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SipoError, match=rf"reward `{name}:it`: (importing {name} )?failed with \w+"):
        score_responses([Objective(name="it", better="b", reward=f"{name}:it")], items("a"))


def test_an_interrupt_is_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted.py").write_text("def it(prompts, responses):\n    raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        score_responses([Objective(name="it", better="b", reward="interrupted:it")], items("a"))


def test_what_a_model_writes_reaches_a_pipe_as_it_is_and_no_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "a\x1b[31m\u202eb"

    class Told:
        def at(self, *_: Any) -> "Told":
            return self

        def generate(self, *_: Any, watch: Any, done: Any, **__: Any) -> None:
            watch(0, said)
            done(0, said)

    monkeypatch.setattr("sipo.finished.handle.open", lambda _: Told())
    for terminal, shown in ((False, said), (True, "a\ufffd[31m\ufffdb")):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["generate", str(tmp_path), "--method", "base", "--prompt", "x"]) == 0
        assert stream.getvalue() == f"{shown}\n"
