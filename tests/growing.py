"""Runs with no model: what plans as an engine stands in for it, and training goes through its examples alone. So what is
left is done in Python, and its operations and memory can be counted. `python tests/growing.py run PROMPTS FOLDER MODEL`
tells the peak of memory in each stage of a whole run, `candidates` in score, filter and realign alone, and
`python tests/growing.py prepare ROWS FOLDER` and the like that of work on data.
"""

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np

from sipo.bank import new_adapter
from sipo.check import check
from sipo.cli.inspect import inspect_file
from sipo.config import Config
from sipo.data import Row, Split, conflict_subset, read_rows, split_rows, write_rows
from sipo.data.convert import convert
from sipo.data.prepare import prepare
from sipo.declare.parts import CANDIDATES, LOGPROBS, REFINEMENTS, SAMPLES
from sipo.decoding import Generated
from sipo.disk.run import RunFolder
from sipo.disk.tables import write_records
from sipo.engines.batched import Batched, Knee, Single, Texts
from sipo.graph.build import Graph
from sipo.logprobs.table import LogprobTable
from sipo.message import Message
from sipo.progress import Progress
from sipo.records import Refinement, Sample
from sipo.runs.pipeline import run
from sipo.settings import Lora
from sipo.stages.filter import filter
from sipo.stages.score import score
from sipo.task import Task
from sipo.training.loop import Trained, Trainee
from sipo.weights import spread_lattice

NAMES = ("x", "y", "z")
BETWEEN = [dict(zip(NAMES, weight, strict=True)) for weight in spread_lattice(3, 5, 21) if max(weight) < 1]
JUDGES = BETWEEN[:12]
"""With the reference and three policies, 16 models."""
DRAWN = BETWEEN[:5]
"""A sample at each and its rewrite: ten candidates a prompt."""
HELD_OUT = 100


class Counting(Batched):
    """Plans as engines do, writes texts by chance and scores by a number that depends on the request alone."""

    lengths = range(3, 9)
    """In tokens."""

    def _computed(self, span: Any, batches: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
        for index, batch in enumerate(batches):
            match batch:
                case Texts():
                    yield index, [_written(request.seed, self.lengths) for request in batch.requests]
                case Single():
                    yield index, [_score(y, point) for group, point in batch.rows for y in group.responses]
                case Knee():
                    yield index, (4096,)


def _written(seed: int, lengths: range) -> Generated:
    """Letters and spaces of a tokenizer by bytes."""
    draw = Random(seed)
    return Generated(tuple(draw.choices(range(66, 90), k=draw.choice(lengths))), True)


def _score(response: Sequence[int], point: Sequence[float]) -> float:
    return -float((response[0] * 7 + response[-1] * 3) % 97) * (1 + sum(at * c for at, c in enumerate(point, 2)) / 10)


def learn(bank: Any, trainees: Sequence[Trainee], **about: Any) -> list[Trained]:
    """Goes once through the examples; some policy comes of it."""
    learned = []
    for trainee in trainees:
        assert all(len(each.reference) == len(each.group.responses) for each in trainee.examples.train)
        policy: Any = trainee.start.trainable_copy(bank.device)
        for parameter in policy.parameters:
            parameter.requires_grad_(False).add_(0.01)
        numbers = {"loss": 0.6, "accuracy": 0.7, "start_validation_loss": 0.7, "validation_loss": 0.6}
        learned.append(Trained(policy, [{"step": 1.0, "epoch": 1.0, **numbers}]))
    return learned


@contextmanager
def no_model() -> Iterator[None]:
    counting = patch("sipo.task.opened", lambda execution, bank: nullcontext(Counting(execution)))
    with counting, patch("sipo.training.policies.train_together", learn):
        yield


def whole_run(folder: Path, model: Path, rows: int) -> None:
    """All stages over so many rows, three of five to train on."""
    split: tuple[Split, ...] = ("train", "train", "train", "validation", "test")
    labels = [{"detail": 1, "brevity": at % 2} for at in range(2)]
    made = [
        Row(
            (Message("user", f"tell me about {at}"),),
            (f"short {at}", f"a longer one {at}"),
            labels[at % 2],
            split[at % 5],
        )
        for at in range(rows)
    ]
    write_rows(folder / "rows.jsonl", made)
    words = {"better": "It is so.", "reward": "sipo.rewards.text:words"}
    config = Config.model_validate(
        {
            "run_dir": str(folder / "run"),
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"path": str(folder / "rows.jsonl"), "max_prompt_tokens": 200, "max_response_tokens": 40},
            "objectives": [{"name": "detail", **words}, {"name": "brevity", **words, "direction": "minimize"}],
            "weights": {"divisions": 2},
            "sample": {"weights": {"divisions": 2}, "rows": "all"},
            "decoding": {"temperature": 1.0},
            "evaluate": {"bootstrap": 10, "validation_prompts": rows},
            "execution": {"device": "cpu"},
        }
    )
    with no_model():
        run(config, quiet=True)


def many_candidates(folder: Path, model: Path, prompts: int) -> dict[str, int]:
    """A whole run with ten candidates a prompt, of 200 tokens, under 16 models, and four methods at 21 weights on a
    hundred held-out prompts; the peak of memory in each stage, in bytes.
    """
    splits: list[Split] = ["train"] * prompts + ["validation", "test"] * HELD_OUT
    rows = [
        Row(
            (Message("user", f"{at} " + "tell me about it " * 16),),
            (f"first {at} " * 20, f"second {at} " * 20),
            {"x": 0, "y": 1, "z": 1},
            split,
        )
        for at, split in enumerate(splits)
    ]
    write_rows(folder / "rows.jsonl", rows)
    del rows
    config = Config.model_validate(
        {
            "run_dir": str(folder / "run"),
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"path": str(folder / "rows.jsonl"), "max_prompt_tokens": 400, "max_response_tokens": 200},
            "objectives": [
                {"name": name, "better": "It is so.", "reward": "sipo.rewards.text:words"} for name in NAMES
            ],
            "sample": {"weights": {"grid": DRAWN}, "rows": "all"},
            "refine": {"review_tokens": 50},
            "filter": {"weights": {"grid": JUDGES}},
            "decoding": {"temperature": 1.0},
            "execution": {"device": "cpu"},
        }
    )
    with no_model(), patch.object(Counting, "lengths", range(180, 200)):
        made = RunFolder(run(config, quiet=True))
    return {stage.name: round(made.record(stage.name)["peak_memory_gib"] * 2**30) for stage in Graph(config)}


def operations(work: Callable[[], object]) -> Counter[str]:
    """Of each function of sipo, the bytecodes that it executes, those of loops and comprehensions too, and the lengths
    of the lists that it searches, or puts something into.
    """
    found: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            found[_name(frame)] += 1
        return count

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if SOURCES not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return count

    def called(frame: FrameType, event: str, callee: Any) -> None:
        if event == "c_call" and callee.__name__ in SEARCHES and SOURCES in frame.f_code.co_filename:
            found[_name(frame)] += len(callee.__self__) if isinstance(callee.__self__, list | tuple) else 1

    sys.settrace(enter)
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return found


SOURCES = "/sipo/"
SEARCHES = ("index", "count", "remove", "insert")


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename.rpartition(SOURCES)[2]}:{frame.f_code.co_qualname}"


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

    told("begun")
    score(task, policies, read(SAMPLES), LogprobTable(), made("score"), refinements=read(REFINEMENTS))
    told("score")
    filter(task, read(SAMPLES), read(LOGPROBS), made("filter"), refinements=read(REFINEMENTS))
    told("filter")
    with no_model():
        from sipo.stages.realign import realign

        realign(task, policies, read(CANDIDATES), read(LOGPROBS), made("realign"))
    told("realign")


def write_pairs(path: Path, rows: int) -> None:
    """Four rows a prompt, of some 500 bytes each, that compare what is there once."""
    draw = Random(0)
    with path.open("w") as file:
        for at in range(rows):
            words = [" ".join(f"w{draw.randrange(3000)}" for _ in range(30)) for _ in range(2)]
            labels = {"x": draw.randrange(2), "y": draw.choice((0, 1, None))}
            record = {"prompt": f"{at // 4} " + "what of it " * 10, "response_0": words[0], "response_1": words[1]}
            file.write(json.dumps({**record, "preferred": labels}) + "\n")


def data_work(what: str, path: Path) -> object:
    """What is done with rows before a run, by its name."""
    match what:
        case "prepare":
            return prepare(str(path), path.parent / "prepared")
        case "inspect":
            return inspect_file(path, as_json=True)
        case "split":
            return split_rows(read_rows(path), seed=1, validation=0.1, test=0.1)
        case "subset":
            rows = read_rows(path)
            return conflict_subset(rows, ("x", "y"), size=len(rows) // 4, ratio=0.3, seed=1)
        case "convert":
            return convert(path, path.parent / "converted", "trl")
        case _:
            raise AssertionError(what)


DATA = ("prepare", "inspect", "split", "subset", "convert")


def check_rows(path: Path, model: Path) -> object:
    words = {"better": "It is so.", "reward": "sipo.rewards.text:words"}
    config = Config.model_validate(
        {
            "run_dir": str(path.parent / "run"),
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"path": str(path), "max_prompt_tokens": 400},
            "objectives": [{"name": "x", **words}, {"name": "y", **words}],
            "execution": {"device": "cpu"},
        }
    )
    return check(config, Progress(quiet=True))


def told(stage: str) -> None:
    print(json.dumps({"stage": stage, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    what, count, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if what == "run":
        for stage, peak in many_candidates(place, Path(sys.argv[4]), count).items():
            print(json.dumps({"stage": stage, "peak": peak}))
        told(what)
    elif what == "candidates":
        write_run(place, count, 200)
        work(task_of(place, Path(sys.argv[4])), place, told)
    else:
        write_pairs(place / "pairs.jsonl", count)
        if what == "check":
            check_rows(place / "pairs.jsonl", Path(sys.argv[4]))
        else:
            data_work(what, place / "pairs.jsonl")
        told(what)
