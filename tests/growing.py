"""Score, filter and realign over many candidates with no model: what plans as an engine stands in for it, and training
goes through its examples alone. `python tests/growing.py PROMPTS FOLDER MODEL` tells the peak of memory after each.
"""

import importlib
import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from sipo.bank import new_adapter
from sipo.config import Config
from sipo.data import Row, write_rows
from sipo.declare.parts import CANDIDATES, LOGPROBS, REFINEMENTS, SAMPLES
from sipo.disk.tables import write_records
from sipo.engines.batched import Batched, knee
from sipo.logprobs.table import LogprobTable
from sipo.message import Message
from sipo.progress import Progress
from sipo.records import Refinement, Sample
from sipo.settings import Lora
from sipo.stages.filter import filter
from sipo.stages.score import score
from sipo.task import Task
from sipo.training.loop import Trained
from sipo.weights import spread_lattice

NAMES = ("x", "y", "z")
BETWEEN = [dict(zip(NAMES, weight, strict=True)) for weight in spread_lattice(3, 5, 21) if max(weight) < 1]
JUDGES = BETWEEN[:12]
"""With the reference and three policies, 16 models."""
DRAWN = BETWEEN[:5]
"""A sample at each and its rewrite: ten candidates a prompt."""


class Counting(Batched):
    """Plans as engines do, and scores by a number that depends on the request alone."""

    def _computed(self, span: Any, batches: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
        for index, batch in enumerate(batches):
            if batch is knee:
                yield index, (4096,)
            else:
                yield index, [_score(y, point) for group, point in batch.rows for y in group.responses]


def _score(response: Sequence[int], point: Sequence[float]) -> float:
    return -float((response[0] * 7 + response[-1] * 3) % 97) * (1 + sum(at * c for at, c in enumerate(point, 2)) / 10)


def write_run(folder: Path, prompts: int, tokens: int) -> None:
    """Rows, and samples and refinements of so many tokens as their stages write them."""
    draw = np.random.default_rng(0)
    asked = [(Message("user", f"{at} " + "tell me about it " * (tokens // 12)),) for at in range(prompts)]
    responses = [(f"first {at}", f"second {at}") for at in range(prompts)]
    rows = [Row(*each, {"x": 0, "y": 1, "z": 1}) for each in zip(asked, responses, strict=True)]
    write_rows(folder / "rows.jsonl", rows)
    places = [(row.key, weights) for row in rows for weights in DRAWN]

    def written() -> tuple[str, tuple[int, ...]]:
        ids = draw.integers(48_000, 49_152, tokens).tolist()
        return " ".join(map(str, ids)), tuple(ids)

    write_records(folder / "samples.jsonl", (Sample(key, weights, 0, *written(), True) for key, weights in places))
    refined = (
        Refinement(key, weights, 0, written()[0], written()[0], *written(), True, {"x": 1.0}, "rewrite")
        for key, weights in places
    )
    write_records(folder / "refinements.jsonl", refined)


def task_of(folder: Path, model: Path) -> Task:
    config = Config.model_validate(
        {
            "run_dir": str(folder / "run"),
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"path": str(folder / "rows.jsonl"), "validation": 0, "test": 0, "max_prompt_tokens": 800},
            "objectives": [
                {"name": name, "better": "It is so.", "reward": "sipo.rewards.text:words"} for name in NAMES
            ],
            "filter": {"weights": {"grid": JUDGES}},
            "execution": {"device": "cpu"},
        }
    )
    task = Task(config, Progress())

    @contextmanager
    def counting(*_: Any) -> Iterator[Counting]:
        yield Counting(config.execution)

    task.site.engines = counting
    return task


def work(task: Task, folder: Path, told: Callable[[str], None] = lambda stage: None) -> None:
    """The three stages, each with what it is given read from the folder."""
    policies = [new_adapter(task.backbone.model, Lora(r=1, alpha=1), seed) for seed in range(len(NAMES))]
    for policy in policies:
        for _, b in policy.factors.values():
            b.fill_(0.1)  # else it is the reference

    def read(part: Any) -> Any:
        place = {LOGPROBS: "score", CANDIDATES: "filter"}.get(part, "")
        return part.read([folder / place / part.files], NAMES)

    def made(stage: str) -> Path:
        (folder / stage).mkdir()
        return folder / stage

    def learn(_: Any, policy: Any, examples: Any, *given: Any, **about: Any) -> Trained:
        assert {len(each.group.responses) for each in examples.train} == {3}
        return Trained(policy, [{"step": 1.0, "loss": 1.0, "accuracy": 1.0}])

    told("begun")
    score(task, policies, read(SAMPLES), LogprobTable(), made("score"), refinements=read(REFINEMENTS))
    told("score")
    filter(task, read(SAMPLES), read(LOGPROBS), made("filter"), refinements=read(REFINEMENTS))
    told("filter")
    stage = importlib.import_module("sipo.stages.realign")
    with patch.object(stage, "train", learn):
        stage.realign(task, policies, read(CANDIDATES), read(LOGPROBS), made("realign"))
    told("realign")


def told(stage: str) -> None:
    print(json.dumps({"stage": stage, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    write_run(place, int(sys.argv[1]), 200)
    work(task_of(place, Path(sys.argv[3])), place, told)
