"""What a command loads before it works: what it does not need costs seconds of every call."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipo.config.file import parse_config
from sipo.runs.pipeline import run

HEAVY = frozenset(
    [
        "torch",
        "transformers",
        "peft",
        "trl",
        "datasets",
        "matplotlib",
        "scipy",
        "moocore",
        "pyarrow",
        "numpy",
    ]
)
CONFIG = {"numpy", "pyarrow"}
"""What reading a configuration or rows takes."""
FRONTS = CONFIG | {"scipy", "moocore"}
"""What statistics take."""
MODEL = FRONTS | {"torch", "transformers", "peft"}
MAY_LOAD = {
    "--version": set(),
    "--help": set(),
    "run --help": set(),
    "schema": CONFIG | {"scipy", "moocore"},
    "status RUN": FRONTS,
    "status RUN --json": FRONTS,
    "choose RUN --knee": FRONTS,
    "compare RUN": FRONTS,
    "init INIT --data ROWS": CONFIG,
    "data inspect ROWS --json": CONFIG,
    "check CONFIG --graph": CONFIG,
    "check CONFIG ; generate RUN --prompt hi --method base --max-tokens 1": MODEL,
}
CODE = """
import json, sys
from itertools import groupby
from sipo.cli.main import main
statuses = [main(list(words)) for ends, words in groupby(sys.argv[1:], lambda word: word == ";") if not ends]
print(json.dumps([statuses, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def place(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    settings = {**make_settings(folder), "methods": ["base", "mod"], "evaluate": {"bootstrap": 50, "prompts": 3}}
    run(parse_config(settings, "settings"), until="compare", quiet=True)
    return folder


@pytest.mark.parametrize("verb", MAY_LOAD)
def test_a_command_loads_what_it_needs_alone(verb: str, place: Path, tmp_path: Path) -> None:
    places = {"RUN": place / "run", "ROWS": place / "rows.jsonl", "CONFIG": place / "run" / "config.yaml"}
    places["INIT"] = tmp_path / "run.yaml"
    words = [str(places.get(word, word)) for word in verb.split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False, env=environment
    )
    statuses, loaded = json.loads(done.stderr.splitlines()[-1])
    assert not any(statuses), done.stderr
    assert HEAVY & set(loaded) <= MAY_LOAD[verb]


def test_a_shell_completes_verbs_and_options() -> None:
    def completed(*words: str) -> list[str]:
        asked = {"_SIPO_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **asked}
        done = subprocess.run(
            [sys.executable, "-m", "sipo"], capture_output=True, text=True, check=False, env=environment
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    assert set(completed("sipo", "ch")) == {"check", "choose", "chat"}
    assert "--at-least" in completed("sipo", "choose", "--at")
