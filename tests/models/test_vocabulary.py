"""Tokens that the model has no embedding of: named before anything is computed, in every command that encodes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import random_adapter
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from sipo.bank import save_adapter
from sipo.check import check
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone, load_backbone
from sipo.progress import Progress
from sipo.rewards import Item, score_responses
from sipo.rewards.examples import Example
from sipo.rewards.kinds.policy import Policy
from sipo.rewards.objective import Objective
from sipo.rewards.reading import Reader
from sipo.runs.pipeline import run
from sipo.settings import Execution, Model

ROWS = 317
"""Of the tiny model's embedding, which has one for each of its tokens."""
Growth = Callable[[Any], None]


def in_template(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "<|turn|>" + tokenizer.chat_template


def as_a_word(tokenizer: Any) -> None:
    tokenizer.add_tokens(["plants"])


def as_the_end(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"eos_token": "<|done|>"})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|done|>")


GROWN: dict[str, tuple[Growth, str]] = {
    "in the template": (in_template, "<|turn|>"),
    "as a word": (as_a_word, "plants"),
    "as the end": (as_the_end, "<|done|>"),
}


def line(token: str) -> str:
    return rf"the token '{token}' has the id {ROWS}, and the model's embedding has {ROWS} rows; enlarge it".replace(
        "|", r"\|"
    )


@pytest.fixture
def grown(model_folder: Path, tmp_path: Path) -> Callable[[Growth], Path]:
    """The tiny model with a tokenizer that has a token more."""

    def make(growth: Growth) -> Path:
        folder = Path(shutil.copytree(model_folder, tmp_path / "grown"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer) == ROWS
        growth(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.parametrize("command", [check, run])
def test_check_and_run_name_the_token(
    grown: Callable[[Growth], Path], settings: dict[str, Any], kind: str, command: Any
) -> None:
    growth, token = GROWN[kind]
    settings["model"]["path"] = str(grown(growth))
    config = parse_config(settings, "here")
    with pytest.raises(SipoError, match=line(token)) as error:
        check(config, Progress(quiet=True)) if command is check else run(config, quiet=True)
    assert "\n" not in str(error.value) and not (Path(settings["run_dir"]) / "align").exists()


@pytest.mark.parametrize("kind", GROWN)
def test_labelling_and_training_a_reward_name_the_token(
    grown: Callable[[Growth], Path], tmp_path: Path, rows_file: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    growth, token = GROWN[kind]
    folder, prompts = grown(growth), tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "tell me of plants"}) + "\n")
    label = ["data", "label", "--prompts", str(prompts), "--to", str(tmp_path / "to.jsonl"), "--model", str(folder)]
    label += ["--objective", "more=sipo.rewards.text:words", "--device", "cpu"]
    assert main(label) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"token '{token}' has the id {ROWS}" in told and "Traceback" not in told
    train = ["reward", "train", "--data", str(rows_file), "--model", str(folder), "--to", str(tmp_path / "reward")]
    assert main([*train, "--objectives", "detail", "--device", "cpu"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"token '{token}' has the id {ROWS}" in told and "Traceback" not in told


@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.parametrize("judge", ["policy", "model"])
def test_rewards_name_the_token(
    grown: Callable[[Growth], Path], backbone: Backbone, tmp_path: Path, kind: str, judge: str
) -> None:
    growth, token = GROWN[kind]
    folder = grown(growth)
    reward: Any = {"model": str(folder), "dtype": "float32"}
    if judge == "policy":
        save_adapter(random_adapter(backbone, 1), tmp_path / "policy", str(folder))
        reward = Policy(policy=tmp_path / "policy", dtype="float32")
    else:
        config = LlamaConfig.from_pretrained(folder, num_labels=1)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    objective = Objective(name="a", better="b", reward=reward)
    items = [Item((Message("user", "why?"),), "because of plants")]
    with pytest.raises(SipoError, match=line(token)):
        score_responses([objective], items, Execution(device="cpu"), cache=tmp_path / "cache")
    if judge == "model":
        with pytest.raises(SipoError, match=line(token)):
            Reader(Model(path=str(folder))).read([Example(tuple(items), (None,))])


def test_tokens_that_nothing_writes_need_no_embedding(grown: Callable[[Growth], Path], backbone: Backbone) -> None:
    def padding(tokenizer: Any) -> None:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        tokenizer.add_tokens(["unheard"])

    loaded = load_backbone(Model(path=str(grown(padding)), dtype="float32"), "cpu")
    codec, plain = (Codec.of(each, Model(path="x"), 200, 20) for each in (loaded, backbone))
    chat = [Message("user", "how do I keep my plants alive?")]
    assert codec.encode_prompt(chat) == plain.encode_prompt(chat)
    assert codec.encode_response("water them") == plain.encode_response("water them")
    with pytest.raises(SipoError, match=r"the token 'unheard' has the id 318"):
        codec.encode_response("unheard of")
