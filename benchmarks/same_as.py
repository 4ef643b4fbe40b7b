"""Does another commit come to the same tables? `make same-as REF=HEAD~1` runs a small twin of the quickstart on both.

The twin has the quickstart's configuration and rows, every method, and a random model of 30k parameters in float32, so
that a run takes seconds. A table that moved to another folder is the same where its content is; responses are compared
as one table, however they are split. Timings, seals and reports are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from benchmarks.model import load
from benchmarks.settings import Settings

ROOT = Path(__file__).parent.parent
METHODS = "[base, policies, soups, factor-soups, mod, mod-alpha, lw, modpo, sipo, sipo-soups]"
SMALL = {
    **{"model.dtype": "float32", "methods": METHODS, "execution.device": "cpu", "data.train_rows": "40"},
    **{"sample.prompts": "8", "evaluate.prompts": "6", "evaluate.bootstrap": "50", "lora.r": "2", "align.lr": "0.01"},
    **{"data.max_response_tokens": "12", "refine.review_tokens": "8", "data.max_prompt_tokens": "200"},
}
"""Laid over the quickstart."""
TABLES = {".jsonl", ".json", ".parquet", ".safetensors"}
WITHOUT = {"stage.json", "subject.json", "metrics.jsonl"}
RESPONSES = "responses.jsonl"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_as", description=__doc__)
    parser.add_argument("ref", help="a commit, tag or branch")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="laid over both, last")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch, checkout(asked.ref, Path(scratch)) as before:
        model = Path(scratch) / "model"
        backbone = load(Settings(random_weights="tiny", dtype="float32", device="cpu"))
        backbone.model.save_pretrained(model)
        backbone.tokenizer.save_pretrained(model)
        runs = [twin(place, model, Path(scratch) / name, asked.set) for name, place in (("a", before), ("b", ROOT))]
        told = differences(*map(tables, runs))
    print("\n".join(told) if told else f"every table is as {asked.ref} has it")
    return 1 if told else 0


@contextmanager
def checkout(ref: str, scratch: Path) -> Iterator[Path]:
    """The files of a commit, beside this checkout."""
    place = scratch / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), ref], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def twin(checkout: Path, model: Path, to: Path, overrides: list[str]) -> Path:
    """A run by the code of a checkout, in a process of its own."""
    laid = [f"{key}={value}" for key, value in {**SMALL, "model.path": str(model)}.items()] + overrides
    sets = [word for each in laid for word in ("--set", each)]
    # HuggingFace's own packages may not look for anything elsewhere.
    surroundings = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sipo", "run", str(checkout / "configs/quickstart.yaml"), "--run-dir", str(to)]
    subprocess.run([*command, *sets], check=True, env=surroundings, stdout=subprocess.DEVNULL)
    return to


def tables(run: Path) -> dict[str, str]:
    """Digests of a run's tables, by their places in it."""
    found: dict[str, str] = {}
    responses: list[str] = []
    for file in sorted(run.rglob("*")):
        place = file.relative_to(run)
        if file.suffix not in TABLES or file.name in WITHOUT or any(part.startswith(".") for part in place.parts):
            continue
        if file.name == RESPONSES:  # judged ones alone: those without rewards are half of a table
            responses += [line for line in file.read_text().splitlines() if json.loads(line)["rewards"]]
        elif place.name != "adapter_config.json":  # it names the folder of the base
            found[place.as_posix()] = sha256(file.read_bytes()).hexdigest()
    found[RESPONSES] = sha256("\n".join(sorted(responses)).encode()).hexdigest()
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each table that is there once, or differs."""
    told = [f"{place}: differs" for place in sorted(before.keys() & after.keys()) if before[place] != after[place]]
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    kept, made = {before[place] for place in gone}, {after[place] for place in new}
    told += [f"{place}: is no longer written" for place in sorted(gone) if before[place] not in made]
    return told + [f"{place}: is new" for place in sorted(new) if after[place] not in kept]


if __name__ == "__main__":
    sys.exit(main())
