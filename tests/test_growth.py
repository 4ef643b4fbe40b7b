"""What is done in plain Python grows with the rows and not with their square; an answer is told piece by piece."""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import CHATML, KINDS, tokenizer_of

from sipo.data import Row
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
    chosen = [Candidate(r.id, r.key, "sample", HALVES, 0, "c", [1], 1, {}, {}, 0.0, CHOSEN) for r in found]
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
