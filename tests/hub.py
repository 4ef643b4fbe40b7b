"""A stand-in for the hub's API, on this machine: what making a repository and a commit ask for."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Repositories by name, each with its files; `refuses` are statuses by what is asked for, such as `commit`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.refuses: dict[str, int] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        verb = next(
            (word for word in ("create", "validate-yaml", "preupload", "batch", "commit", "put") if word in path),
            "info",
        )
        self.asked.append(verb)
        if "xet-" in path:  # it keeps large files in the old way alone; what else it says, the library asks for minutes
            return 404, {"error": "no Xet here"}
        if verb in self.refuses:
            return self.refuses[verb], {"error": f"no {verb} today"}
        if verb == "put":
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if verb == "create":
            about = json.loads(body)
            name = f"{about.get('organization')}/{about['name']}"
            if name in self.repos:
                return 409, {"error": "You already created this model repo"}
            self.repos[name] = {"private": about.get("private") or about.get("visibility") == "private", "files": {}}
            return 200, {"url": f"{self.url}/{name}"}
        if verb == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        name = "/".join(path.removeprefix("/api/models/").lstrip("/").split("/")[:2]).removesuffix(".git")
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if verb == "preupload":
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular", "shouldIgnore": False, "oid": None}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": modes}
        if verb == "batch":
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.url}/put/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if verb == "commit":
            return 200, self._commit(name, [json.loads(line) for line in body.splitlines()])
        return 200, {"id": name, "private": self.repos[name]["private"], "siblings": [], "sha": "0" * 40, "tags": []}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        files = self.repos[name]["files"]
        for each in (line["value"] for line in lines):
            if each.get("encoding") == "base64":
                files[each["path"]] = base64.b64decode(each["content"])
            elif "oid" in each:
                files[each["path"]] = self.large[each["oid"]]
                assert hashlib.sha256(files[each["path"]]).hexdigest() == each["oid"]
        return {"commitUrl": f"{self.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}


@contextmanager
def standing_in() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers["Content-Length"]
            body = self.rfile.read(int(length)) if length else _chunks(self.rfile)
            if self.path == "/api/agent-harnesses":  # the library asks once for a list of its own
                return self.send_error(404)
            if not self.path.startswith("/put/"):  # what is signed needs no token
                hub.tokens.add(self.headers["Authorization"])
            status, answer = hub.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST

        def do_GET(self) -> None:
            self.headers["Content-Length"] = "0"
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _chunks(stream: Any) -> bytes:
    """A body that is sent in pieces."""
    body = b""
    while size := int(stream.readline().strip() or b"0", 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body
