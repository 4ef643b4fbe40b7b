"""`sipo serve` as a process: what it says, how it ends, and what it needs."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Running

from sipo.cli.main import main
from sipo.serve.keys import Keys
from sipo.serve.service import Limits


@pytest.fixture
def start(served_run: Path) -> Any:
    processes = []

    def started(port: str = "0") -> Any:
        words = ["serve", f"tiny={served_run}", "--port", port, "--json"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "sipo", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def test_killed_it_serves_again_and_asked_to_stop_it_finishes_what_runs_and_refuses_the_rest(start: Any) -> None:
    killed = start()
    url = json.loads(killed.stdout.readline())["url"]
    body = {"model": "tiny/mod", "messages": [{"role": "user", "content": "x"}], "temperature": 50.0, "seed": 1}

    def text(tokens: int) -> str:
        answer = httpx.post(f"{url}/chat/completions", json={**body, "max_tokens": tokens}, timeout=60)
        return str(answer.json()["choices"][0]["message"]["content"])

    before = text(20)
    asked = {**body, "max_tokens": 400, "stream": True}
    with pytest.raises(httpx.RemoteProtocolError), httpx.stream("POST", f"{url}/chat/completions", json=asked) as cut:
        for _ in cut.iter_lines():
            killed.kill()
    process = start(str(httpx.URL(url).port))
    told = json.loads(process.stdout.readline())
    assert told["url"] == url and text(20) == before
    assert told["models"][0] == "tiny" and "tiny/mod" in told["models"]
    url = told["url"]
    body = {
        "model": "tiny/mod", "messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "temperature": 50.0, "stream": True,
        "n": 3,
    }  # fmt: skip
    ours = httpx.Client()  # which takes longer to make than a short answer
    lines, refused = [], []

    def again() -> None:
        """While the stream goes on."""
        process.send_signal(signal.SIGTERM)
        for _ in range(200):
            answer = ours.post(f"{url}/chat/completions", json={**body, "stream": False, "max_tokens": 1, "n": 1})
            if answer.status_code == 503:
                refused.append((answer, ours.get(url.removesuffix("v1") + "ready")))
                return

    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as stream:
        for line in stream.iter_lines():
            lines += [line] if line else []
            if line and len(lines) == 2:  # the first line may come before the answer has begun
                other = threading.Thread(target=again)
                other.start()
        other.join()
    ours.close()
    assert lines[-1] == "data: [DONE]" and "finish_reason" in lines[-2]
    ((answer, ready),) = refused
    assert answer.headers["Retry-After"] and answer.json()["error"]["code"] == "stopping" and ready.status_code == 503
    assert process.wait(20) == 143
    assert process.stderr.read().splitlines()[-1] == "stopped"


BODY = b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}]}'
WHOLE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
HALF = WHOLE[:-9]
"""A request whose end is never sent."""


def connected(server: Running, sent: bytes = b"") -> socket.socket:
    ours = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=20)
    ours.sendall(sent)
    return ours


def test_who_is_connected_hears_that_it_stops_and_who_does_not_end_asking_holds_nothing_up(
    served_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipo.serve.server.LEAVING", 0.1)
    server = Running(served_run, Limits(rows=4), Keys())
    with connected(server, HALF), connected(server) as late:
        server.until(lambda: len(server.server.server_state.connections) == 2)
        server.server.handle_exit(signal.SIGTERM, None)
        server.until(lambda: not server.service.ready)
        late.sendall(WHOLE)
        told = late.makefile("rb").read().lower()  # until it is closed
        assert b" 503 " in told and b"retry-after: 5" in told and b"connection: close" in told
        server._thread.join(20)
        assert not server._thread.is_alive()
    server.close()


def test_at_the_second_signal_it_ends_at_once_and_in_quiet(
    served_run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Running(served_run, Limits(rows=4), Keys())
    with connected(server, HALF):
        server.until(lambda: bool(server.server.server_state.tasks))
        monkeypatch.setattr(server.service, "drain", lambda: None)  # so that it is busy for ever
        for _ in range(2):
            server.server.handle_exit(signal.SIGINT, None)
        server._thread.join(20)
        assert not server._thread.is_alive()
    server.close()
    assert not capfd.readouterr().err


def test_who_goes_away_in_the_middle_of_a_request_is_counted_and_no_more(
    serving: Callable[..., Running], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serving()
    gone = server.service.metrics.requests.labels("499")._value
    before = gone.get()
    connected(server, HALF).close()
    server.until(lambda: gone.get() == before + 1)
    assert not capfd.readouterr().err


def test_what_cannot_be_served_is_told_in_a_line(
    served_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").write_text("# none\n")
    for words, said in (
        ([str(tmp_path)], "holds no run"), ([str(served_run), str(served_run)], "NAME="),
        ([str(served_run), "--api-keys", str(tmp_path / "keys")], "holds no key"),
        ([str(served_run), "--api-keys", str(tmp_path / "nowhere")], "nowhere"),
        ([str(served_run), "--host", "256.0.0.1"], "cannot listen"),
    ):  # fmt: skip
        assert main(["serve", *words]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and "Traceback" not in told
