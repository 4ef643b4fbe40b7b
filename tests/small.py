"""Tiny stand-ins of real formats: a Llama of 30k parameters, a byte-level BPE tokenizer with a chat template."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CHATML, TEXT, byte_level, save_model
from hypothesis import settings
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sipo.bank import Adapter, Bank, new_adapter, save_adapter
from sipo.engines import Pool
from sipo.message import Message
from sipo.models.load import Backbone, load_backbone
from sipo.rewards import Item
from sipo.rewards.examples import Example
from sipo.settings import Execution, Lora, Model

# The models are so small that threads only wait for each other; OMP_NUM_THREADS=2 tries more all the same.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's load
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    start, end = "<|im_start|>", "<|im_end|>"
    made = byte_level([start, end], 320)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=start, eos_token=end)
    tokenizer.chat_template = CHATML
    return save_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="session")
def backbone(model_folder: Path) -> Backbone:
    return load_backbone(Model(path=str(model_folder), dtype="float32"), "cpu")


@pytest.fixture(scope="session")
def bank(backbone: Backbone) -> Bank:
    """Proven while its weights are whole: some tests spoil them."""
    bank = Bank(backbone)
    with bank.mounted([]):
        return bank


@pytest.fixture(scope="session")
def pool(bank: Bank) -> Iterator[Pool]:
    """One for all tests of engines: its workers take seconds to start."""
    execution = Execution(device="cpu", engine="pool", workers=2, decode_rows=7, score_tokens=120)
    with closing(Pool(execution, bank)) as pool:
        yield pool


def random_adapter(backbone: Backbone, seed: int, r: int = 3) -> Adapter:
    """An adapter with a B that is not zero, so that it changes the model."""
    adapter = new_adapter(backbone.model, Lora(r=r, alpha=2.0 * r), seed)
    generator = torch.Generator().manual_seed(seed)
    return Adapter(
        {n: (a, 0.3 * torch.randn(b.shape, generator=generator)) for n, (a, b) in adapter.factors.items()},
        adapter.scaling,
    )


@pytest.fixture(scope="session")
def policies(backbone: Backbone) -> list[Adapter]:
    return [random_adapter(backbone, seed, r) for seed, r in ((1, 3), (2, 5), (3, 2))]


@pytest.fixture(scope="session")
def peft_models(
    model_folder: Path, policies: list[Adapter], tmp_path_factory: pytest.TempPathFactory
) -> list[PeftModel]:
    """PEFT's own models of the policies: what the bank is held against."""
    models = []
    for index, policy in enumerate(policies):
        folder = tmp_path_factory.mktemp(f"policy-{index}")
        save_adapter(policy, folder, str(model_folder))
        base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        models.append(PeftModel.from_pretrained(base, folder).eval())
    return models


def write_rows(folder: Path) -> Path:
    """Forty small rows with two objectives that conflict half of the time."""
    words = TEXT.split()
    records = []
    for i in range(40):
        # So short that what the model writes, which is longer, is sometimes better by every judge.
        short, long = words[i % 7], " ".join(words[i % 5 + 1 : i % 5 + 3])
        records.append(
            {
                "prompt": f"tell me about {words[i % len(words)]} {i}",
                "response_0": short,
                "response_1": long,
                "preferred": {"detail": 1, "brevity": i % 2, "tone": None if i % 5 == 0 else i % 3 % 2},
            }
        )
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def small_settings(model_folder: Path, folder: Path) -> dict:
    return {
        "seed": 1,
        "run_dir": str(folder / "run"),
        "model": {"path": str(model_folder), "dtype": "float32"},
        "data": {"path": str(write_rows(folder)), "validation": 0.1, "test": 0.2, "max_prompt_tokens": 200, "max_response_tokens": 12},
        "objectives": [
            {"name": "detail", "better": "It says more.", "reward": "sipo.rewards.text:words"},
            {"name": "brevity", "better": "It says less.", "reward": "sipo.rewards.text:words", "direction": "minimize"},
        ],
        "weights": {"divisions": 2},
        "lora": {"r": 2, "alpha": 4},
        "decoding": {"temperature": 1.0},
        "align": {"lr": 0.01, "epochs": 2, "batch_size": 8, "checkpoint": "last"},
        "sample": {"prompts": 8, "weights": {"divisions": 2}, "per_weight": 8},
        "refine": {"review_tokens": 8},
        "realign": {"lr": 0.001},
        "evaluate": {"bootstrap": 50},
        "execution": {"device": "cpu", "decode_rows": 32, "score_tokens": 400, "train_tokens": 400, "checkpoint_seconds": 0},
    }  # fmt: skip


def asking_briefly(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """They, with a prompt for reviews and rewrites that is short: what comes with sipo has a character a token here, which
    is a third of a run's work.
    """
    short = folder / "template.yaml"
    short.write_text('- {role: user, content: "{{ prompt }} {{ response }}"}\n')
    templates = {"review_template": str(short), "rewrite_template": str(short)}
    return {**settings, "refine": {**settings["refine"], **templates}}


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path)


@pytest.fixture
def settings(model_folder: Path, tmp_path: Path) -> dict:
    """A whole configuration, small enough to run in seconds."""
    return small_settings(model_folder, tmp_path)


@pytest.fixture(scope="session")
def make_settings(model_folder: Path) -> Callable[[Path], dict]:
    """The same for any folder, for fixtures that outlive a test."""
    return lambda folder: small_settings(model_folder, folder)


NAMES = ("sunny", "dark")
"""What the reward models of the tests learn."""


def compared(prompt: str, first: str, second: str, **preferred: int | None) -> Example:
    chat = (Message("user", prompt),)
    return Example((Item(chat, first), Item(chat, second)), tuple(preferred.get(name) for name in NAMES))


def scored(prompt: str, response: str, **scores: float | None) -> Example:
    return Example((Item((Message("user", prompt),), response),), tuple(scores.get(name) for name in NAMES))


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the stages that are made during the test, in order; those that hold are not among them."""
    from sipo.runs.pipeline import Work

    names: list[str] = []
    make = Work._make

    def recorded(work: Any, stage: Any, *given: Any) -> None:
        names.append(stage.name)
        make(work, stage, *given)

    monkeypatch.setattr(Work, "_make", recorded)
    return names
