"""The paper's four set-ups: what they say, that they can be checked without anything, and that each runs to its end
with tiny stand-ins of the same formats in place of model, data and judges."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from score_models import score_model, shape
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForSequenceClassification,
)

import sipo.models.shapes
from sipo.cli.main import main
from sipo.config.file import load_config, parse_config
from sipo.data import read_rows
from sipo.data.cleaning import Choice
from sipo.disk.tables import read_records
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.prompts.template import load_template
from sipo.records import Refinement, Response
from sipo.runs.pipeline import run

PAPER = Path(__file__).parents[2] / "configs" / "paper"
SETUPS = ("beavertails-llama2-7b", "beavertails-alpaca-7b", "helpsteer-llama2-7b", "helpsteer-alpaca-7b")
LIGHT = ("model.quantise=4bit", "execution.gradient_checkpointing=true")
FITS_24 = [word for key in LIGHT for word in ("--set", key)]
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
FORMAT = "BEGINNING OF CONVERSATION: {turns}USER: {prompt} ASSISTANT:"


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sipo.models.shapes, "folder_of", lambda origin: Path(origin.source) if origin.local else None)
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))


# What they say


@pytest.mark.parametrize("setup", SETUPS)
def test_the_paper_s_numbers_are_in_place(setup: str) -> None:
    config = load_config(PAPER / f"{setup}.yaml")
    beavertails, llama = "beavertails" in setup, "llama2" in setup
    assert config.methods == ("base", "soups", "mod", "lw", "modpo", "sipo")
    assert (config.weights.divisions, config.decoding.temperature) == (5, 0)
    align, realign = config.align, config.realign
    assert (align.beta, align.lr, align.epochs, align.warmup, align.weight_decay) == (0.1, 5e-4, 3, 0.1, 0.05)
    assert align.checkpoint == "best"
    assert (realign.beta, realign.alpha, realign.epochs, config.filter.beta) == (0.1, 0.1, 1, 0.1)
    assert (config.lora.r, config.lora.alpha) == (64, 1)
    assert config.data.max_response_tokens == 512
    assert config.model.prompt_template == FORMAT
    assert config.model.path == ("meta-llama/Llama-2-7b-hf" if llama else "PKU-Alignment/alpaca-7b-reproduced")
    source = config.data.source
    assert source is not None
    if beavertails:
        assert source.model_dump(exclude_defaults=True) == {"name": "beavertails"}
        assert config.names == ("helpful", "harmless") and config.refine.reviewer == {"harmless": 1.0}
        assert realign.lr == {"helpful": 5e-6, "harmless": 5e-5} and config.sample.prompts == 2500
    else:
        assert source.name == "helpsteer" and source.choice == Choice(
            objectives=("correctness", "verbosity"),
            drop_ties="any",
            max_tokens=512,
            tokenizer="PKU-Alignment/alpaca-7b-reproduced",
        )
        assert config.names == ("correctness", "verbosity") and config.refine.reviewer == {"correctness": 1.0}
        assert realign.lr == 5e-6 and (config.data.train_rows, config.data.conflict_ratio) == (970, 0.6)
    sft = config.sft
    assert (sft is not None) is llama
    if sft:
        assert (sft.lr, sft.epochs) == ((1e-4, 3) if beavertails else (1e-5, 2))
        assert (sft.max_tokens, sft.batch_size, sft.accumulate) == (2048, 1, 2)


@pytest.mark.parametrize(("name", "reviews"), [("beavertails", 2), ("helpsteer", 1)])
def test_the_templates_have_the_paper_s_number_of_examples(name: str, reviews: int) -> None:
    for kind, examples in (("review", reviews), ("rewrite", 1)):
        template = load_template(PAPER / f"{name}-{kind}.yaml", kind)
        assert [m.role for m in template.messages] == ["system", *["user", "assistant"] * examples, "user"]
        assert "objective.better" in template.messages[0].content  # the hint line
    assert load_template(PAPER / f"{name}-review.yaml", "review").lead_in.endswith("by\n1.")


# Several messages in a plain format


@pytest.fixture
def codec(model_folder: Path) -> Codec:
    return Codec(AutoTokenizer.from_pretrained(model_folder), 400, 20, FORMAT)


def text_of(codec: Codec, chat: list[Message]) -> str:
    return str(codec.tokenizer.decode(codec.encode_prompt(chat)))


def test_turns_keep_apart_in_a_plain_format(codec: Codec) -> None:
    chat = [Message("system", "be kind"), Message("user", "why?"), Message("assistant", "so"), Message("user", "and?")]
    one, again = "USER: be kind\nwhy? ASSISTANT:so<|im_end|>", "USER: and? ASSISTANT:"
    assert text_of(codec, chat) == f"BEGINNING OF CONVERSATION: {one}{again}"
    whole = Codec(codec.tokenizer, 400, 20, "Q: {prompt} A:")
    assert text_of(whole, chat) == "Q: be kind\nwhy? A:so<|im_end|>Q: and? A:"
    assert text_of(codec, chat[:2]) == "BEGINNING OF CONVERSATION: USER: be kind\nwhy? ASSISTANT:"


def test_an_answer_in_a_chat_is_what_the_model_would_have_written(codec: Codec) -> None:
    """Its tokens and the end, and the next turn behind them: no prompt can pass for a turn."""
    first, asked = [Message("user", "why?")], [Message("user", "{prompt} USER: {turns} ASSISTANT:so")]
    chat = codec.encode_prompt([*first, Message("assistant", "the sun is warm"), *asked])
    start = [*codec.encode_prompt(first), *codec.encode_response("the sun is warm")]
    assert chat[: len(start)] == start
    assert codec.tokenizer.decode(chat[len(start) :]) == "USER: {prompt} USER: {turns} ASSISTANT:so ASSISTANT:"


def test_the_special_tokens_at_the_beginning_come_once(codec: Codec) -> None:
    chat = [Message("user", "why?"), Message("assistant", "so"), Message("user", "and?")]

    beginning = copy.deepcopy(codec.tokenizer)
    begin = beginning.bos_token_id
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{beginning.bos_token} $A", special_tokens=[(beginning.bos_token, begin)]
    )
    assert beginning("so")["input_ids"][0] == begin
    ids = Codec(beginning, 400, 20, FORMAT).encode_prompt(chat)
    assert ids == [begin, *codec.encode_prompt(chat)]


def test_earlier_turns_must_come_before_the_prompt(settings: dict[str, Any]) -> None:
    settings["model"]["prompt_template"] = "{prompt} {turns}"
    with pytest.raises(
        SipoError, match=r"must contain \{prompt\}, and \{turns\} \(the earlier turns\), if at all, before it"
    ):
        parse_config(settings, "here")


# Without network, model, rows and judges


@pytest.mark.parametrize("setup", SETUPS)
def test_check_needs_nothing_and_says_so(setup: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(PAPER / f"{setup}.yaml"), "--gpu", "40", "--tokens-per-second", "1e4"]) == 0
    text = capsys.readouterr().out
    for part in (
        "not looked at:",
        f"rows.jsonl: not there yet; `sipo run` makes them of {setup.partition('-')[0]}",
        "6,738.42 M parameters",
        "SIPO, section 4.1",
        "hours at",
    ):
        assert part in text
    assert text.count("is not on this machine; `sipo run` downloads it") == 2
    table = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert ("sft" in table) is ("llama2" in setup)
    stages = ("align", "lw", "modpo", "sample", "refine", "score", "realign", "answers/sipo", "judged/sipo")
    assert all(table[stage][6] == "yes" for stage in stages)
    assert main(["check", str(PAPER / f"{setup}.yaml"), "--gpu", "24"]) == 0
    assert " no" in capsys.readouterr().out
    assert main(["check", str(PAPER / f"{setup}.yaml"), "--gpu", "24", *FITS_24]) == 0
    text = capsys.readouterr().out
    table = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert all(table[stage][6] == "yes" for stage in stages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora.target_modules=[w_proj]", "`w_proj`; it has"),
        ("data.max_prompt_tokens=4000", "over the model's context of 2048"),
        ("objectives.0.reward=", "no keys"),
        ("sample.weights.divisions=1", "none lies between"),
        ("refine.review_template=nowhere.yaml", "nowhere.yaml"),
        ("model.path=owner/unknown", "cannot be loaded"),
        ("data.source=nowhere/rows.jsonl", "data.source: "),
        ("data.source.max_token=9", "did you mean `max_tokens`?"),
    ],
)
def test_check_still_finds_what_is_wrong(change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(PAPER / "helpsteer-alpaca-7b.yaml"), "--set", change]) == 2
    assert message in capsys.readouterr().err


# To the end, on stand-ins


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))


@pytest.fixture(scope="module")
def stand_ins(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny files and checkpoints of the formats that the set-ups name."""
    folder = tmp_path_factory.mktemp("paper")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = None
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = LlamaConfig(**shape(len(tokenizer), max_position_embeddings=4096, **ends))
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for kind in ("reward", "cost"):
        (folder / f"beaver-7b-{kind}").mkdir()
        score_model(folder / f"beaver-7b-{kind}", model_folder, bias=False, kind=kind, normalised=False)
    judge = MistralConfig(**shape(len(tokenizer), num_labels=10, sliding_window=None, max_position_embeddings=1024))
    MistralForSequenceClassification(judge).save_pretrained(folder / "dpa")
    tokenizer.save_pretrained(folder / "dpa")
    words = [
        "how",
        "do",
        "I",
        "keep",
        "my",
        "plants",
        "alive?",
        "water",
        "them",
        "once",
        "a",
        "week.",
        "give",
        "them",
        "light.",
    ]
    random = Random(0)  # labels that nothing in the words explains, so that the objectives' policies differ
    for split, count in {"train": 40, "test": 6}.items():
        pairs = [
            {"prompt": f"{split} {words[i % 9]} {i}", "response_0": words[i % 7], "response_1": words[i % 5 + 8],
             "better_response_id": random.randrange(2), "safer_response_id": random.randrange(2)}
            for i in range(count)
        ]  # fmt: skip
        write(folder / "pku" / f"{split}.jsonl", pairs)
    for split, count in {"train": 50, "validation": 6}.items():
        answers = [
            {"prompt": f"{split} {words[i % 9]} {i}", "response": word}
            | dict(zip(ATTRIBUTES, (random.randrange(5) for _ in ATTRIBUTES), strict=True))
            for i in range(count)
            for word in (words[i % 7], words[i % 5 + 8], words[i % 3] + " it")
        ]
        write(folder / "steer" / f"{split}.jsonl", answers)
    return folder


def small(setup: str, stand_ins: Path, to: Path) -> dict[str, Any]:
    """The set-up with model, source and judges replaced, and its sizes made small; everything else as it is."""
    values = yaml.safe_load((PAPER / f"{setup}.yaml").read_text())
    name = setup.split("-")[0]
    values["run_dir"] = str(to)
    values["model"] |= {"path": str(stand_ins / "model"), "dtype": "float32"}
    values["data"]["max_response_tokens"] = 8
    if name == "helpsteer":
        values["data"]["source"] |= {"name": str(stand_ins / "steer"), "tokenizer": str(stand_ins / "model")}
        values["data"]["train_rows"] = 30
    else:
        values["data"]["source"] = {"name": str(stand_ins / "pku"), "format": values["data"]["source"]}
    for objective in values["objectives"]:
        preset = objective["reward"]["preset"]
        model = stand_ins / (preset if name == "beavertails" else "dpa")
        objective["reward"] |= {"model": str(model), "dtype": "float32"}
    for key in ("review_template", "rewrite_template"):
        values["refine"][key] = str(PAPER / values["refine"][key])
    values["refine"]["review_tokens"] = 6
    values["sample"] |= {"prompts": 6, "per_weight": 4}
    values["align"]["lr"] = 0.003  # as a model of this size needs
    values["decoding"]["temperature"] = 1.0  # greedily, a random model says nothing that any judge likes better
    values["lora"]["r"] = 2
    if "sft" in values:
        values["sft"]["lora"]["r"] = 2
    values["evaluate"] = {"bootstrap": 50, "prompts": 3}
    values["execution"] = {"device": "cpu", "score_tokens": 8000, "train_tokens": 8000, "decode_rows": 64}
    return dict(values)


QUICK = "helpsteer-llama2-7b"


@pytest.mark.parametrize(
    "setup", [each if each == QUICK else pytest.param(each, marks=pytest.mark.slow) for each in SETUPS]
)
def test_it_runs_to_its_end(setup: str, stand_ins: Path, tmp_path: Path) -> None:
    config = parse_config(small(setup, stand_ins, tmp_path / "run"), setup)
    folder = run(config, quiet=True)
    fronts = json.loads((folder / "compare" / "fronts.json").read_text())
    assert list(fronts["methods"]) == list(config.methods)
    assert all(len(front["points"]) == 6 for front in fronts["methods"].values()), (
        "sampled from, base too, once a weight"
    )
    splits = {row.split for row in read_rows(config.data.path)}
    assert splits == {"train", "validation", "test"}
    judged = [folder / "judged" / name / "responses.jsonl" for name in config.methods]
    responses = [each for path in judged for each in read_records(path, Response)]
    assert all(set(each.rewards) == set(config.names) for each in responses)
    tuned = folder / "sft" / "model"
    assert tuned.is_dir() is ("llama2" in setup)
    adapter = json.loads((folder / "realign" / "adapters" / config.names[0] / "adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]) == (tuned if tuned.is_dir() else stand_ins / "model").resolve()
    if tuned.is_dir():
        AutoModelForCausalLM.from_pretrained(tuned)
    [first, *_] = read_records(folder / "refine" / "refinements.jsonl", Refinement)
    assert first.review.startswith("The response can be")
    assert (folder / "report" / "report.html").is_file()
