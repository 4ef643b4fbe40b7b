"""The code on an export's card, run as it stands: it asks as the run does, and its answers end where the run's do."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CHATML, save_model, tokenizer_of
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import sipo
from sipo.bank.peft_folder import read_lora
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.errors import SipoError
from sipo.finished.gguf_lora import _page
from sipo.models.quantisation import is_quantised
from sipo.runs.pipeline import run

THINKS = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
WAYS = {
    "a turn's end that only the template has": (CHATML, None),
    "an open thought": (THINKS, None),
    "plain": (None, "Q: {prompt}\nA:"),
}
QUESTION = 'why is the "sun" <b>warm</b>?'


def blocks(folder: Path) -> list[str]:
    """The card's code, for this folder."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [code.replace("path/to/this/folder", str(folder)) for code in found]


@pytest.mark.parametrize("name", WAYS)
def test_the_card_s_code_answers_as_the_run(
    name: str, make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat, plain = WAYS[name]
    model = save_model(tmp_path / "model", tokenizer_of("byte", chat, adds="" if chat else "bos"))
    settings = make_settings(tmp_path)
    settings["model"] |= {"path": str(model), "prompt_template": plain}
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    finished = run(parse_config(settings, "settings"), only="align", quiet=True)
    soups = sipo.open(finished).at({"detail": 0.25, "brevity": 0.75}, method="soups")
    expected = soups.generate(QUESTION, temperature=0.0, max_new_tokens=256)
    for merged in (False, True):
        folder = soups.save_pretrained(tmp_path / f"merged {merged}", merged=merged)
        code, *_ = blocks(folder)
        code = code.replace('"How do I ...?"', repr(QUESTION))
        capsys.readouterr()
        exec(code.replace('dtype="auto"', 'dtype="float32"'), {})
        assert capsys.readouterr().out.strip() == expected
        assert "eos_token_id=[" in code
    stops = set(GenerationConfig.from_pretrained(folder).eos_token_id)
    assert (tokenizer_of("byte", chat).convert_tokens_to_ids("<|im_end|>") in stops) == (chat is not None)


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has gone elsewhere since."""
    place = tmp_path_factory.mktemp("card")
    model = save_model(place / "model", tokenizer_of("byte", CHATML))
    settings = make_settings(place)
    settings["model"]["path"] = str(model)
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    finished = run(parse_config(settings, "settings"), only="align", quiet=True)
    model.rename(place / "elsewhere")
    return finished


def test_an_adapter_is_exported_where_its_base_is_not(finished: Path, tmp_path: Path) -> None:
    soups = sipo.open(finished).at({"detail": 1.0}, method="soups")
    card = (soups.save_pretrained(tmp_path / "adapter") / "README.md").read_text()
    assert "PeftModel" in card and "generate" not in card


def test_an_export_says_that_its_base_was_quantised(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, words = sipo.open(finished), "learned over the base in 4 bits (bitsandbytes)"
    plain = opened.at({"detail": 1.0}, method="soups").save_pretrained(tmp_path / "plain")
    assert words not in (plain / "README.md").read_text()
    model = opened.config.model.model_copy(update={"quantise": "4bit"})
    monkeypatch.setattr(opened, "config", opened.config.model_copy(update={"model": model}))
    soups = opened.at({"detail": 1.0}, method="soups")
    assert words in (soups.save_pretrained(tmp_path / "adapter") / "README.md").read_text()
    assert words in _page(soups, "base", {"detail": 1.0}, None)


def test_the_code_of_a_card_loads_the_base_as_it_was_quantised(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao")
    settings = make_settings(tmp_path)
    settings["model"] |= {"path": str(save_model(tmp_path / "model", tokenizer_of("byte", None, adds="bos")))}
    settings["model"] |= {"prompt_template": WAYS["plain"][1], "quantise": "8bit"}
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    finished = run(parse_config(settings, "settings"), only="align", quiet=True)
    soups = sipo.open(finished).at({"detail": 0.25, "brevity": 0.75}, method="soups")
    expected = soups.generate(QUESTION, temperature=0.0, max_new_tokens=256)
    (code,) = blocks(folder := soups.save_pretrained(tmp_path / "soup"))
    assert "TorchAoConfig" in code and "which answers otherwise" in (folder / "README.md").read_text()
    capsys.readouterr()
    exec(code.replace('"How do I ...?"', repr(QUESTION)).replace('dtype="auto"', 'dtype="float32"'), made := {})
    assert capsys.readouterr().out.strip() == expected
    assert any(is_quantised(weight) for weight in made["base"].parameters())
    words = ["export", str(finished), "--weights", "detail=0.25,brevity=0.75", "--method", "soups"]
    assert main([*words, "--to", str(tmp_path / "adapter")]) == 0
    served, note = capsys.readouterr().out.split("serve it ")[1].splitlines()[:2]
    assert served.startswith("vllm serve") and "8 bits" in note and "otherwise" in note


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_an_adapter_names_the_base_that_others_have(
    finished: Path, tmp_path: Path, umask: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: a hub id as it is, a folder by its absolute path, each on the card and in the adapter."""
    words = ["export", str(finished), "--weights", "detail=1", "--method", "soups"]
    before = os.umask(umask)
    try:
        assert main([*words, "--to", str(tmp_path / "adapter"), "--base", "someone/model"]) == 0
    finally:
        os.umask(before)
    assert "vllm serve someone/model --enable-lora" in capsys.readouterr().out
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "adapter").iterdir()}
    assert modes == {0o666 & ~umask}
    about = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "someone/model" and not about["revision"]
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "base_model: someone/model\n" in card and "| base | someone/model |" in card
    assert str(finished.parent) not in card, "a place on this machine"
    assert card.count('from_pretrained("someone/model"') == 2
    soups = sipo.open(finished).at({"detail": 1.0}, method="soups")
    moved = finished.parent / "elsewhere"
    folder = soups.save_pretrained(tmp_path / "there", base=str(moved / ".." / moved.name))
    assert read_lora(folder).base_model_name_or_path == str(moved)
    models = []
    for block in blocks(folder):
        exec(block, made := {})
        models.append(made["model"])
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        first, second = (model.eval()(ids).logits for model in models)
    torch.testing.assert_close(first, second)


def test_a_base_that_is_none_is_refused(finished: Path, tmp_path: Path) -> None:
    """Before anything is written, and a model of other layers as well."""
    soups = sipo.open(finished).at({"detail": 1.0}, method="soups")
    other = tmp_path / "other"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(other)
    refused: dict[Any, str] = {
        "": "base is empty", "gpt2": "looks like `owner/name`", "./none": "no such folder", "a//b": "no such folder",
        "a b/c": "is no hub id", "-a/b": "is no hub id", "a/b\n": "is no hub id", "package:llm": "no GGUF", "a/b.gguf": "no GGUF",
        str(tmp_path): "no config.json", str(other): "is another model than the policies stand on", 3: "base is a number",
    }  # fmt: skip
    for base, why in refused.items():
        with pytest.raises(SipoError, match=why) as told:
            soups.save_pretrained(tmp_path / "adapter", base=base)
        assert ".tmp" not in str(told.value)
        assert [each.name for each in tmp_path.iterdir()] == ["other"], base
