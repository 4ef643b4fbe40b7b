"""A small task for the product's stages: the quickstart's, shrunken, over the benchmark's model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.bench import Bench
from sipo.config import Config
from sipo.engines import opened
from sipo.progress import Progress
from sipo.runs.pipeline import run as make
from sipo.task import Engines, Task

ROOT = Path(__file__).parents[1]
WORDS = "plants water light soil sun garden rain seed leaf root"


@contextmanager
def small_task(bench: Bench, rows: int, engines: Engines = opened, **changed: object) -> Iterator[tuple[Task, Path]]:
    """The task, and a folder that goes with it. Greedy, one epoch a training, no validation rows: nothing depends on
    the order in which a route does its work. Random weights get short rows of their own.
    """
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        settings = small_settings(bench, folder, rows, **changed)
        task = Task(Config.model_validate(settings), Progress(quiet=True))
        task.site.backbone, task.site.bank, task.site.engines = bench.backbone, bench.bank, engines
        yield task, folder


def small_settings(bench: Bench, folder: Path, rows: int, **changed: object) -> dict[str, Any]:
    """Of a configuration with so many training rows, with some sections changed."""
    settings = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
    source = ROOT / "examples/quickstart/rows.jsonl"
    if bench.settings.random_weights:
        source = folder / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in _rows(settings["objectives"])))
    settings["run_dir"] = str(folder / "run")
    settings["model"] = {"path": bench.settings.model}
    settings["data"] |= {"path": str(source), "validation": 0.0, "test": 0.2, "train_rows": rows}
    settings["data"] |= {"max_response_tokens": bench.settings.new_tokens}
    settings["lora"] = {"r": bench.settings.rank, "alpha": 2 * bench.settings.rank}
    settings["decoding"] = {"temperature": 0.0}
    settings["refine"] = {"review_tokens": bench.settings.new_tokens}
    settings["realign"] = {"lr": 8.0e-4}  # as strong as a quickstart's may be, without trials
    for section, values in changed.items():
        settings[section] = {**settings.get(section, {}), **values}  # type: ignore[dict-item]
    for training in ("align", "realign"):
        settings[training] |= {"epochs": 1, "batch_size": 4}
    if bench.settings.random_weights:
        settings["data"]["max_prompt_tokens"] = 128
    return settings


def small_run(bench: Bench, folder: Path, rows: int) -> tuple[Config, Path]:
    """A run that has its policies and no more, over a copy of the bench's model."""
    base = folder / "base"
    bench.model.save_pretrained(base)
    bench.backbone.tokenizer.save_pretrained(base)
    model = {"path": str(base), "dtype": str(bench.model.dtype).removeprefix("torch.")}
    config = Config.model_validate({**small_settings(bench, folder, rows, model=model), "methods": ["base", "mod"]})
    return config, make(config, until="align", quiet=True)


def _rows(objectives: list[dict[str, str]]) -> list[dict[str, object]]:
    words = WORDS.split()
    first, second = (objective["name"] for objective in objectives)
    return [
        {
            "prompt": f"{words[i % 10]} {i}?",
            "response_0": words[i % 7],
            "response_1": " ".join(words[i % 5 : i % 5 + 2]),
            "preferred": {first: 1, second: i % 2},
        }
        for i in range(60)
    ]
