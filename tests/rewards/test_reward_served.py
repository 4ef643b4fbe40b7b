"""The judge against `transformers serve`: a tiny model that has learned to say one thing, over the wire."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sipo.errors import SipoError
from sipo.message import Message
from sipo.rewards import Item, check_rewards, score_responses
from sipo.rewards.objective import Objective

SAID = '{"kind": 7}'
PATIENCE = 120.0
"""Seconds that the server may take to come up."""


@pytest.fixture(scope="module")
def judge_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template that hears nothing, taught to answer it with one JSON object."""
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = heard = "<|im_start|>assistant\n"
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    asked = tokenizer(heard)["input_ids"]
    ids = torch.tensor([[*asked, *tokenizer(SAID)["input_ids"], tokenizer.eos_token_id]])
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(asked), -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(judge_folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from transformers.cli.transformers import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(judge_folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def test_a_served_model_judges(url: str, judge_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path))
    reward = {
        "judge": url,
        "model": str(judge_folder),
        "json_schema": False,
        "options": {"temperature": 0, "max_tokens": 16},
    }
    kind = Objective(name="kind", better="It is kinder.", reward=reward)
    check_rewards([kind])
    items = [Item((Message("user", "hi"),), text) for text in ("hello", "go away")]
    assert score_responses([kind], items) == {"kind": [7, 7]}
    severe = Objective(name="kind", better="It is kinder.", reward={**reward, "highest": 5})
    with pytest.raises(SipoError, match=r"answered '.*7.*' where `kind` is 7, not from 1 to 5, 3 times"):
        score_responses([severe], items)
