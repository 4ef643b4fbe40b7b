"""What is done in plain Python grows with the rows and not with their square; an answer is told piece by piece."""

import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import CHATML, KINDS, tokenizer_of
from growing import DATA, check_rows, data_work, operations, task_of, whole_run, work, write_pairs, write_run

from sipo.data import Row, read_rows
from sipo.filters.contest import CHOSEN
from sipo.finished.streaming import Stream
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.records import Candidate
from sipo.report.inputs import Inputs
from sipo.report.rewards import by_kind, texts_of
from sipo.rewards.objective import Objective
from sipo.settings import Sample, Training
from sipo.stages.sample import worked_rows
from sipo.training.learner import Recipe
from sipo.training.optimise import optimise

HALVES = {"x": 0.5, "y": 0.5}


def rows(n: int) -> list[Row]:
    return [Row((Message("user", f"q{i}"),), ("a", "b"), {"x": 0, "y": 1}) for i in range(n)]


def report(n: int) -> None:
    found = rows(n)
    chosen = [Candidate(r.id, r.key, "sample", HALVES, 0, "c", (1,), 1, {}, {}, 0.0, CHOSEN) for r in found]
    inputs = Inputs({}, [], {}, candidates=chosen, originals={r.id: r.responses for r in found})
    objectives = [Objective(name=name, better="more", reward="m:f") for name in HALVES]
    by_kind(found, inputs, objectives, dict.fromkeys(texts_of(found, inputs), HALVES))


def choice(n: int) -> None:
    config = SimpleNamespace(sample=Sample(prompts=n // 2), seed=0)
    task: Any = SimpleNamespace(config=config, objectives=("x", "y"), splits=SimpleNamespace(train=rows(n)))
    assert len(worked_rows(task)) == n // 2


def steps(n: int) -> None:
    parameter = torch.zeros(1, requires_grad=True)

    def backward(batch: list[int]) -> dict[str, float]:
        parameter.grad = torch.ones(1)
        return {"loss": float(len(batch))}

    settings = Training(epochs=1, batch_size=64)
    optimise([parameter], n * 16, backward, Recipe(settings, 1e-3, 0))


def stream(n: int) -> None:
    codec: Any = SimpleNamespace(
        stops={0}, tokenizer=SimpleNamespace(decode=lambda ids, **_: "".join(chr(97 + id % 26) for id in ids))
    )
    stream = Stream(codec, {0: 0}, lambda *_: None)
    for token in range(1, n + 1):
        stream(0, token)


@pytest.mark.parametrize(("work", "n"), [(report, 400), (choice, 2000), (steps, 1000), (stream, 1000)])
def test_work_grows_with_the_number_of_rows(work: Callable[[int], None], n: int) -> None:
    """Eight times as many take 8 times as long where the work is linear, 64 times where it is quadratic."""

    def seconds(n: int) -> float:
        began = time.process_time()
        work(n)
        return time.process_time() - began

    seconds(n)
    for _ in range(3):
        ratio = seconds(8 * n) / seconds(n)
        if ratio < 20:
            return
    pytest.fail(f"8 times as many take {ratio:.0f} times as long")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_what_is_told_is_the_answer(seed: int, kind: str) -> None:
    """Over tokens by chance: half characters, spaces at either end, special tokens within, an end or none."""
    tokenizer = tokenizer_of(kind, CHATML)
    codec = Codec(tokenizer, 100, 100)
    draw = torch.Generator().manual_seed(seed)
    texts = ["", "é ü", "\u00a0x ", " a  b ", "日本語 😀", "a\n\n", "  "]
    answers: list[Sequence[int]] = []
    for i in range(8):
        text = texts[int(torch.randint(len(texts), (1,), generator=draw))]
        ids = torch.randint(len(tokenizer), (20,), generator=draw).tolist() if i % 2 else []
        ids = [*codec.encode_text(text), *(id for id in ids if id not in codec.stops)]
        answers.append([*ids, *codec.closing] if i % 3 else ids)
    told = [""] * len(answers)
    pieces = 0

    def watch(prompt: int, piece: str) -> None:
        nonlocal pieces
        told[prompt - 5] += piece
        pieces += 1

    ended: dict[int, str] = {}
    stream = Stream(codec, {at: at + 5 for at in range(len(answers))}, watch, lambda at, text: ended.update({at: text}))
    for place in range(max(map(len, answers))):
        for request, ids in enumerate(answers):
            if place < len(ids):
                stream(request, ids[place])
    whole = [codec.decode(ids) for ids in answers]
    stream.finish()
    assert told == whole == [ended[at + 5] for at in range(len(answers))]
    assert pieces > len(answers)


SMALL, TIMES = 20, 3
"""Rows, and how many times as many: the square would be nine times as much."""


def test_no_stage_does_more_than_grow_with_the_rows(model_folder: Path, tmp_path: Path) -> None:
    """Every function of a whole run, with no model: what it does for three times the rows."""
    counted = []
    for rows in (SMALL, TIMES * SMALL):
        (tmp_path / str(rows)).mkdir()
        counted.append(operations(partial(whole_run, tmp_path / str(rows), model_folder, rows)))
    assert_linear(*counted)
    assert any("report" in name for name in counted[1])


@pytest.mark.parametrize("what", [*DATA, "check"])
def test_no_work_on_data_does_more_than_grow_with_the_rows(
    what: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = []
    for rows in (40, TIMES * 40):
        path = tmp_path / str(rows) / "pairs.jsonl"
        path.parent.mkdir()
        write_pairs(path, rows)
        counted.append(operations(lambda: check_rows(path, model_folder) if what == "check" else data_work(what, path)))  # noqa: B023
    assert_linear(*counted)
    assert sum(counted[1].values()) > 2 * sum(counted[0].values()) / 3


def test_what_a_row_takes_in_memory(tmp_path: Path) -> None:
    """Beside its texts, of 2 x 174 characters here: some 500 bytes."""
    held = []
    for count in (100, 100, 1100):
        write_pairs(tmp_path / "pairs.jsonl", count)
        gc.collect()
        tracemalloc.start()
        rows = read_rows(tmp_path / "pairs.jsonl")
        held.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
        assert len(rows) == count
    assert (held[2][0] - held[1][0]) / 1000 < 1100 and (held[2][1] - held[1][1]) / 1000 < 1300


def assert_linear(few: Counter[str], many: Counter[str]) -> None:
    """With a third on top, for what comes in batches, and a start of 1000."""
    for name, count in many.items():
        assert count < 4 * few[name] + 1000, f"{name}: {few[name]}, then {count}"


@pytest.mark.parametrize(
    "body",
    [
        lambda rows: [[each for each in rows if each == row] for row in rows],
        lambda rows: [rows.index(row) for row in rows],
        lambda rows: [rows.insert(0, row) for row in list(rows)],
    ],
)
def test_a_square_would_be_seen(body: Callable[[list[int]], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("growing.SOURCES", Path(__file__).name[:-3])
    few, many = (operations(partial(body, list(range(n)))) for n in (SMALL * 4, TIMES * SMALL * 4))
    with pytest.raises(AssertionError):
        assert_linear(few, many)


def test_what_a_candidate_takes_in_score_filter_and_realign(model_folder: Path, tmp_path: Path) -> None:
    """Under 16 models, of 50 tokens: some 6 kB in the stages' peak, 1 kB of it tokens and texts of 50 characters more
    or less. Each of what they hold, log-probabilities, requests, journal, candidates, would take as much in plain lists.
    """
    peaks = []
    for number, prompts in enumerate((10, 10, 40)):  # the first loads what is imported late
        folder = tmp_path / str(number)
        folder.mkdir()
        write_run(folder, prompts, 50)
        task = task_of(folder, model_folder)
        _ = task.backbone, task.site.groups
        gc.collect()
        tracemalloc.start()
        work(task, folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 300 < 9000


def peaks(*command: object) -> dict[str, float]:
    """In GiB, of a process of its own."""
    script = str(Path(__file__).with_name("growing.py"))
    done = subprocess.run([sys.executable, script, *map(str, command)], check=True, capture_output=True, text=True)
    told = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"stage"'))
    return {each["stage"]: each["peak"] / 2**30 for each in told}


@pytest.mark.slow
def test_100_000_candidates_under_16_models_take_less_than_2_gib(model_folder: Path, tmp_path: Path) -> None:
    """Of 200 tokens: 1.5 GiB, of which half a GiB is there before there is a row."""
    assert peaks("candidates", 10_000, tmp_path, model_folder)["realign"] < 2
    with (tmp_path / "filter" / "candidates.jsonl").open() as file:
        assert sum(1 for _ in file) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("what", [*DATA, "check"])
def test_a_million_rows_take_less_than_2_gib(what: str, model_folder: Path, tmp_path: Path) -> None:
    """Rows of half a kilobyte; `check` also holds the libraries of models, and how long each text is in tokens."""
    assert peaks(what, 1_000_000, tmp_path, model_folder)[what] < 2


@pytest.mark.slow
def test_no_stage_of_a_run_of_100_000_candidates_takes_2_gib(model_folder: Path, tmp_path: Path) -> None:
    """Of 200 tokens under 16 models, .6 GiB of it libraries; reviews and rewrites are asked with some 1000 tokens each."""
    found = peaks("run", 10_000, tmp_path, model_folder)
    assert "report" in found and max(found.values()) < 2
