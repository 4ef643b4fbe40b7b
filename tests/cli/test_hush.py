"""What other libraries do beside our own lines: no bars of theirs, and threads that give the core away."""

import os
import subprocess
import sys

import pytest

from sipo.cli.threads import SERVING, SPIN, THREADS, TURNS, WAIT, about_threads, settle_threads

BARS = """
from sipo.hush import hush, settle
settle()
hush()
import datasets, tqdm, tqdm.auto, transformers
from datasets.utils import tqdm as of_datasets
from huggingface_hub.utils import tqdm as of_downloads
for bar in (tqdm.tqdm, tqdm.auto.tqdm, transformers.utils.logging.tqdm, of_datasets):
    list(bar(range(3), desc=str(bar)))
datasets.Dataset.from_list([{"a": 1}] * 3).map(lambda row: row, desc="mapped")
list(of_downloads(range(3), desc="downloaded", disable=False))
"""


def test_python_shows_no_bar_of_transformers_and_finds_its_setting_as_it_was() -> None:
    """Whoever opens a run in Python has not asked for bars; what others show of theirs stays."""
    script = """
from transformers.utils import logging
from sipo.hush import without_bars
assert logging.is_progress_bar_enabled()
with without_bars():
    assert list(logging.tqdm([1, 2], desc="hidden")) == [1, 2]
list(logging.tqdm([1], desc="shown"))
"""
    environment = {name: value for name, value in os.environ.items() if "TQDM" not in name and "PROGRESS" not in name}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "shown" in done.stderr and "hidden" not in done.stderr


def test_no_library_shows_bars_but_for_downloads() -> None:
    environment = {name: value for name, value in os.environ.items() if "TQDM" not in name and "PROGRESS" not in name}
    done = subprocess.run([sys.executable, "-c", BARS], env=environment, capture_output=True, text=True, check=True)
    assert "downloaded" in done.stderr and done.stdout == ""
    assert {line.split(":")[0] for line in done.stderr.replace("\r", "\n").splitlines() if line} == {"downloaded"}


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, TURNS),
        ({SPIN: "7"}, "7"),
        ({WAIT: "active"}, None),
        ({WAIT: "passive", SPIN: "7"}, "7"),
        ({THREADS: "4"}, TURNS),
    ],
)
def test_what_a_person_set_of_threads_stays(given: dict[str, str], spins: str | None) -> None:
    environment, of_server = dict(given), dict(given)
    settle_threads(["run", "serve"], environment)
    assert environment == {**given, **({SPIN: spins} if spins else {})}
    settle_threads(["serve", "run"], of_server)
    assert of_server == {**environment, **({SPIN: SERVING} if spins == TURNS else {})}
    said = about_threads(2, environment)
    assert said.startswith("2 of torch's") and all(f"{name}={value}" in said for name, value in environment.items())


def test_threads_are_settled_before_torch_is_loaded_and_the_doctor_says_so() -> None:
    script = """
import sys
import sipo.cli.threads as threads
settle = threads.settle_threads
def watched(*given):
    print("torch" in sys.modules)
    settle(*given)
threads.settle_threads = watched
from sipo.cli.main import main
main(["doctor"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in (SPIN, WAIT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    early, *facts = done.stdout.splitlines()
    assert early == "False"
    (line,) = [fact for fact in facts if fact.startswith("threads")]
    assert f"{SPIN}={TURNS}" in line


def test_importing_sipo_sets_nothing() -> None:
    script = "import os; before = dict(os.environ); import sipo; sipo.load_config; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", script], check=True)
