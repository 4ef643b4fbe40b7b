"""A real server of OpenAI's protocol on this machine, which refuses, stalls and talks nonsense as a test says."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sipo.message import Message
from sipo.rewards import Item
from sipo.rewards.objective import Objective

Answer = tuple[int, Any]
"""Status and body; a string body is the assistant's message."""


class Server(ThreadingHTTPServer):
    """Answers as `behave` says, which is given the request and how often its response was seen before."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: Answer = (200, {"object": "list", "data": []})
        self.behave: Callable[[dict[str, Any], int], Answer] = by_length
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.looked: list[dict[str, str]] = []
        """Headers of requests for the list of models."""
        self.paths: list[str] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def seen(self) -> Counter[str]:
        return Counter(response_of(request) for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.looked.append({name.lower(): value for name, value in self.headers.items()})
        self.server.paths.append(self.path)
        self.send(*self.server.models)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.paths.append(self.path)
            before = server.seen()[response_of(request)]
            server.requests.append(request)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            status, body = server.behave(request, before)
        finally:
            with server.lock:
                server.at_once -= 1
        if isinstance(body, str):
            message = {"index": 0, "message": {"role": "assistant", "content": body}, "finish_reason": "stop"}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [message],
            }
        self.send(status, body)

    def send(self, status: int, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 429:
                self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up waiting

    def log_message(self, *args: Any) -> None: ...


def response_of(request: dict[str, Any]) -> str:
    asked = json.loads(request["messages"][1]["content"])
    return str(asked["response"] if "response" in asked else f"{asked['first']} | {asked['second']}")


def by_length(request: dict[str, Any], before: int) -> Answer:
    """A judge that likes length as `long`, and has no opinion on anything else."""
    length = float(len(response_of(request)))
    names = request["response_format"]["json_schema"]["schema"]["required"]
    return 200, json.dumps({name: length if name == "long" else 5 for name in names})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sipo.rewards.endpoint.FIRST_WAIT", 0.01)  # seconds; doubles from there
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def objectives(server: Server, *names: str, **settings: Any) -> list[Objective]:
    reward = {"judge": server.url, "model": "tiny", "retries": 3, **settings}
    return [Objective(name=name, better=f"It is more {name}.", reward=reward) for name in names or ("long",)]


def items(*responses: str) -> list[Item]:
    return [Item((Message("system", "be kind"), Message("user", "why?")), response) for response in responses]
