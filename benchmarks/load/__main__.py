"""A crowd of streams against `sipo serve` on a tiny model: python -m benchmarks.load --locust LOCUST.

Four times with a server of its own: in peace; with a short queue; with SIGTERM in the middle; killed in the middle, and
started again. Each text is held against that of `generate`; one client in ten goes away in the middle. Ends with 1
where anything was lost, mixed up or cut that must not be.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import sipo
from benchmarks.bench import Bench
from benchmarks.endpoints import Server, leaving_nothing
from benchmarks.hardware import inspect
from benchmarks.model import load
from benchmarks.settings import Settings
from benchmarks.tasks import small_run

FILE = Path(__file__).with_name("locustfile.py")
SHARES = (0.1, 0.3, 0.5, 0.9)
METHODS = ("mod", "soups", "mod-jensen-shannon")
QUIET = {"answered", "left"}


@dataclass(frozen=True)
class Phase:
    name: str
    options: tuple[str, ...]
    may: frozenset[str]
    """How a stream may end."""
    must: frozenset[str]
    """What must have been among the ends."""
    signal: int | None = None
    """Sent in the middle."""


PHASES = (
    Phase("in peace", (), frozenset(QUIET), frozenset(QUIET)),
    Phase("a short queue", ("--waiting", "20"), frozenset({*QUIET, "429"}), frozenset({*QUIET, "429"})),
    Phase(
        "SIGTERM in the middle",
        (),
        frozenset({*QUIET, "503", "nobody there", "error in a stream: stopping"}),
        frozenset({*QUIET, "nobody there"}),
        signal.SIGTERM,
    ),
    Phase(
        "killed in the middle, and started again",
        (),
        frozenset({*QUIET, "cut", "nobody there"}),
        frozenset({*QUIET, "cut"}),
        signal.SIGKILL,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--locust", default="locust", help="the command, of an environment that has it")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=30, help="a phase")
    parsed = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="load-") as name:
        made, asked = prepared(Path(name))
        wrong = [each for phase in PHASES for each in run(phase, made, asked, parsed)]
    print("\n".join(wrong) or "as it must be", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


def prepared(folder: Path) -> tuple[Path, Path]:
    """A run of a tiny model, and a file of what is asked with the texts of `generate`."""
    settings = Settings(random_weights="tiny", device="cpu", dtype="float32", rank=4)
    backbone = load(settings)
    bench = Bench(settings, backbone, inspect(backbone.device, torch.float32, small=True))
    _, made = small_run(bench, folder, 8)
    opened, asked = sipo.open(made), list[Any]()
    first, second = opened.objectives
    for number, (method, share) in enumerate((method, share) for method in METHODS for share in SHARES):
        weights, prompt = {first: share, second: 1 - share}, f"number {number}?"
        text = opened.at(weights, method).generate(prompt, seed=number, temperature=1.0, max_new_tokens=24)
        body = {"model": f"run/{method}", "weights": weights, "messages": [{"role": "user", "content": prompt}]}
        asked.append(
            {"body": {**body, "seed": number, "temperature": 1.0, "max_tokens": 24, "stream": True}, "text": text}
        )
    file = folder / "asked.json"
    file.write_text(json.dumps(asked))
    return made, file


def run(phase: Phase, made: Path, asked: Path, options: argparse.Namespace) -> list[str]:
    """What was not as it must be."""
    command = [sys.executable, "-m", "sipo", "serve", f"run={made}", *phase.options]
    with Server(command) as server:
        crowd = subprocess.Popen(
            f"{options.locust} -f {FILE} --headless --json --only-summary --host {server.url}"
            f" -u {options.streams} -r {options.streams} -t {options.seconds}s".split(),
            env={**os.environ, "SIPO_LOAD": str(asked)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            if phase.signal is not None:
                time.sleep(options.seconds / 2)
                status = server.send(phase.signal)
                print(f"{phase.name}: the server ended with {status}")
                if phase.signal == signal.SIGKILL:
                    server.start()
            told, _ = crowd.communicate(timeout=options.seconds + 120)
        finally:
            crowd.kill()
    ends = {each["name"]: each for each in json.loads(told)}
    wrong = [
        f"{phase.name}: {name}: {each['num_failures']} wrong" for name, each in ends.items() if each["num_failures"]
    ]
    wrong += [f"{phase.name}: {name}, which must not be" for name in ends.keys() - phase.may]
    wrong += [f"{phase.name}: never {name}" for name in phase.must - ends.keys()]
    print(f"{phase.name}: " + ", ".join(f"{name} {each['num_requests']}" for name, each in sorted(ends.items())))
    return wrong


if __name__ == "__main__":
    sys.exit(leaving_nothing(main))
