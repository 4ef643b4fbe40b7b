"""`sipo serve` as a process: what it says, how it ends, and what it needs."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from sipo.cli.main import main


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
            if not lines:
                other = threading.Thread(target=again)
                other.start()
            lines += [line] if line else []
        other.join()
    ours.close()
    assert lines[-1] == "data: [DONE]" and "finish_reason" in lines[-2]
    ((answer, ready),) = refused
    assert answer.headers["Retry-After"] and answer.json()["error"]["code"] == "stopping" and ready.status_code == 503
    assert process.wait(20) == 143
    assert process.stderr.read().splitlines()[-1] == "stopped"


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
