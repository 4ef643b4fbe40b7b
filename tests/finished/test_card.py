"""The code on an export's card, run as it stands: it asks as the run does, and its answers end where the run's do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import CHATML, save_model, tokenizer_of
from transformers import GenerationConfig

import sipo
from sipo.config.file import parse_config
from sipo.runs.pipeline import run

THINKS = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
WAYS = {
    "a turn's end that only the template has": (CHATML, None),
    "an open thought": (THINKS, None),
    "plain": (None, "Q: {prompt}\nA:"),
}
QUESTION = 'why is the "sun" <b>warm</b>?'


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
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        code = code.replace("path/to/this/folder", str(folder)).replace('"How do I ...?"', repr(QUESTION))
        capsys.readouterr()
        exec(code.replace('dtype="auto"', 'dtype="float32"'), {})
        assert capsys.readouterr().out.strip() == expected
        assert "eos_token_id=[" in code
    stops = set(GenerationConfig.from_pretrained(folder).eos_token_id)
    assert (tokenizer_of("byte", chat).convert_tokens_to_ids("<|im_end|>") in stops) == (chat is not None)


def test_an_adapter_is_exported_where_its_base_is_not(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", tokenizer_of("byte", CHATML))
    settings = make_settings(tmp_path)
    settings["model"]["path"] = str(model)
    settings |= {"methods": ["base", "soups"], "align": {"lr": 0.05, "epochs": 1, "batch_size": 8}}
    finished = run(parse_config(settings, "settings"), only="align", quiet=True)
    model.rename(tmp_path / "elsewhere")
    soups = sipo.open(finished).at({"detail": 1.0}, method="soups")
    card = (soups.save_pretrained(tmp_path / "adapter") / "README.md").read_text()
    assert "PeftModel" in card and "generate" not in card
