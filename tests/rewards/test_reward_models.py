"""Reward models: the numbers of transformers, of safe-rlhf's and DPA's formats, and of PEFT, whatever the batch."""

import json
import pickle
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from score_models import score_model, shape
from small import random_adapter
from stage_keys import stage_keys
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
)

import sipo.rewards.model
from sipo.bank import save_adapter
from sipo.config.file import parse_config
from sipo.data import read_rows
from sipo.disk.tables import read_records
from sipo.engines.cluster import Cluster
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models.load import Backbone
from sipo.records import Response
from sipo.rewards import Item, check_rewards, score_responses
from sipo.rewards.objective import Objective
from sipo.runs.pipeline import run
from sipo.settings import Execution

CPU = Execution(device="cpu", score_tokens=200)
CHAT = (Message("system", "be kind"), Message("user", "how are you?"))
ITEMS = [
    Item((Message("user", "how do I keep my plants alive?"),), "water them"),
    Item(
        (Message("user", "why {response} is so?"),), "because the sun {prompt} is warm, and the soil is dark and deep"
    ),
    Item(CHAT, "fine"),
    Item(CHAT, ""),
]
NUMBERS: dict[str, Any] = {"rel": 1e-4, "abs": 1e-5}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rewards.sqlite"


def objectives(*rewards: Any) -> list[Objective]:
    return [Objective(name=f"o{index}", better="more", reward=reward) for index, reward in enumerate(rewards)]


@pytest.fixture(scope="module")
def three_heads(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier as transformers saves it; its padding token is none that a text ends with."""
    folder = tmp_path_factory.mktemp("three-heads")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    labels = {0: "helpful", 1: "harmless", 2: "brief"}
    config = LlamaConfig(
        **shape(len(tokenizer), pad_token_id=5, id2label=labels, label2id={v: k for k, v in labels.items()})
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def chat_text(item: Item) -> str:
    turns = [*item.prompt, Message("assistant", item.response)]
    return "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns)


def plain(item: Item) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in item.prompt) if len(item.prompt) > 1 else item.prompt[0].content


@torch.no_grad()
def by_transformers(folder: Path, texts: list[Any]) -> list[list[float]]:
    """One text at a time, without padding: what the model card's code gives."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = []
    for text in texts:
        pair = text if isinstance(text, tuple) else (text,)
        scores.append(model(**tokenizer(*pair, return_tensors="pt")).logits[0].tolist())
    return scores


@pytest.mark.parametrize("pad", [5, None])
def test_every_head_is_transformers_own_in_any_batch(three_heads: Path, tmp_path: Path, pad: int | None) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in three_heads.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}))
    model = {"model": str(folder), "dtype": "float32"}
    named = objectives(
        {**model, "head": "brief"}, {**model, "head": 0, "scale": -2, "shift": 3}, {**model, "format": "pair"},
        {**model, "head": 1, "format": "Q: {prompt} A: {response}{eos}"}, {**model, "format": "{prompt}{response}<|im_start|>"},
    )  # fmt: skip
    found = score_responses(named, ITEMS, CPU)
    chat = by_transformers(folder, [chat_text(item) for item in ITEMS])
    pairs = by_transformers(folder, [(plain(item), item.response) for item in ITEMS])
    texts = by_transformers(folder, [f"Q: {plain(item)} A: {item.response}<|im_end|>" for item in ITEMS])
    assert found["o0"] == pytest.approx([row[2] for row in chat], **NUMBERS)
    assert found["o1"] == pytest.approx([3 - 2 * row[0] for row in chat], **NUMBERS)
    assert found["o2"] == pytest.approx([row[0] for row in pairs], **NUMBERS)
    assert found["o3"] == pytest.approx([row[1] for row in texts], **NUMBERS)
    starts = by_transformers(folder, [f"{plain(item)}{item.response}<|im_start|>" for item in ITEMS])
    assert found["o4"] == pytest.approx([row[0] for row in starts], **NUMBERS), "ends with token 0"
    assert len({round(value, 3) for value in found["o0"]}) == len(ITEMS), "the texts must be told apart"


def test_all_heads_come_from_one_forward_of_each_item_ever(three_heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, models = [], []
    forward, load = sipo.rewards.model.forward, sipo.rewards.model.load_classifier

    def counted(model: Any, rows: Any) -> Any:
        seen.extend(tuple(row["input_ids"]) for row in rows)
        return forward(model, rows)

    def watched(*args: Any) -> Any:
        loaded = load(*args)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(sipo.rewards.model, "forward", counted)
    monkeypatch.setattr(sipo.rewards.model, "load_classifier", watched)
    model = {"model": str(three_heads), "dtype": "float32"}
    two = objectives({**model, "head": 0}, {**model, "head": 1})
    first = score_responses(two, [*ITEMS[:2], ITEMS[0]], CPU)
    assert len(seen) == 2 and first["o0"][0] == first["o0"][2] != first["o1"][0]
    assert models[0]() is None, "the model is freed"
    again = score_responses(objectives({**model, "head": "brief"}, *[each.reward for each in two]), ITEMS, CPU)
    assert len(seen) == len(set(seen)) == 4 and len(models) == 2
    assert again["o1"][:2] == first["o0"][:2]
    score_responses(two, ITEMS, CPU)
    assert len(seen) == 4 and len(models) == 2, "nothing left to score: the model is not even loaded"


def test_actors_of_a_cluster_give_what_this_process_gives(
    three_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches come in any order, and one that is lost is an error that names an item of it."""
    lost: list[int] = []

    def mapped(_: Any, actor: Any, given: Any, calls: Any) -> Iterator[Any]:
        called = actor(*pickle.loads(pickle.dumps(given)))
        kept = [call for number, call in enumerate(calls) if number not in lost]
        yield from (called(pickle.loads(pickle.dumps(call))) for call in reversed(kept))

    monkeypatch.setattr(Cluster, "mapped", mapped)
    named = objectives({"model": str(three_heads), "dtype": "float32", "head": "brief"})
    few = CPU.model_copy(update={"score_tokens": 20})
    expected = score_responses(named, ITEMS, few, cache=tmp_path / "here.sqlite")["o0"]
    ray = few.model_copy(update={"engine": "ray"})
    found = score_responses(named, ITEMS, ray, cache=tmp_path / "there.sqlite")["o0"]
    assert found == pytest.approx(expected, **NUMBERS)
    lost.append(0)
    with pytest.raises(SipoError, match="every actor of ray ended that scored the response"):
        score_responses(named, ITEMS, ray, cache=tmp_path / "again.sqlite")
    lost.clear()
    again = score_responses(named, ITEMS, ray, cache=tmp_path / "again.sqlite")["o0"]
    assert again == pytest.approx(expected, **NUMBERS)


def test_the_head_is_computed_in_float32(three_heads: Path) -> None:
    """In bf16 two scores near 70 would differ by halves; the shift of the head makes them large."""
    found = score_responses(objectives({"model": str(three_heads), "dtype": "bfloat16"}), ITEMS, CPU)["o0"]
    assert any(value != torch.tensor(value).bfloat16().item() for value in found)


@pytest.mark.parametrize(("bias", "normalised"), [(False, False), (True, True)])
def test_beaver_reads_the_score_at_the_end_token(
    model_folder: Path, tmp_path: Path, bias: bool, normalised: bool
) -> None:
    kinds = {"beaver-7b-reward": "reward", "beaver-7b-cost": "cost"}
    found, expected = {}, {}
    for preset, kind in kinds.items():
        folder = tmp_path / kind
        model, weight, offset = score_model(folder, model_folder, bias=bias, kind=kind, normalised=normalised)
        reward = {"preset": preset, "model": str(folder), "dtype": "float32"}
        found[kind] = score_responses(objectives(reward), ITEMS, CPU)["o0"]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        expected[kind] = []
        for item in ITEMS:
            text = f"BEGINNING OF CONVERSATION: USER: {plain(item)} ASSISTANT:{item.response}{tokenizer.eos_token}"
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            assert ids[0, -1] == tokenizer.eos_token_id
            with torch.no_grad():
                score = float(nn.functional.linear(model(ids).last_hidden_state[0, -1], weight, offset))
            if normalised:  # safe-rlhf's: rewards are centred and scaled, costs only scaled
                score = (score - (0.5 if kind == "reward" else 0.0)) / 2.0
            expected[kind].append(score)
    assert found["reward"] == pytest.approx(expected["reward"], **NUMBERS)
    assert found["cost"] == pytest.approx([-score for score in expected["cost"]], **NUMBERS), "larger is more harmless"


def test_dpa_is_read_as_its_card_says(model_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(5)
    config = MistralConfig(**shape(len(tokenizer), num_labels=10, sliding_window=None))
    MistralForSequenceClassification(config).save_pretrained(tmp_path)
    card = (
        "[INST] You must read the following conversation carefully and rate the assistant's response from score 0-100 "
        "in these aspects: helpfulness, correctness, coherence, honesty, complexity, verbosity\n\nUser: {}\n\n"
        "Assistant: {} [/INST]"
    )
    logits = by_transformers(tmp_path, [card.format(plain(item), item.response) for item in ITEMS])
    copy = {"model": str(tmp_path), "dtype": "float32"}
    found = score_responses(
        objectives({"preset": "dpa-correctness", **copy}, {"preset": "dpa-verbosity", **copy}), ITEMS, CPU
    )
    assert found["o0"] == pytest.approx([(row[1] - 10) / 20 for row in logits], **NUMBERS)
    assert found["o1"] == pytest.approx([(row[4] - 10) / 20 for row in logits], **NUMBERS)


def test_a_policy_is_the_log_ratio_that_peft_gives(backbone: Backbone, model_folder: Path, tmp_path: Path) -> None:
    save_adapter(random_adapter(backbone, seed=7), tmp_path / "policy", str(model_folder))
    reward = {"policy": str(tmp_path / "policy"), "beta": 0.5, "dtype": "float32"}
    found = score_responses(objectives(reward, {**reward, "beta": 1.0}), ITEMS, CPU)

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    policy = PeftModel.from_pretrained(base, tmp_path / "policy").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    expected = []
    for item in ITEMS:
        chat = [message._asdict() for message in item.prompt]
        asked = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))["input_ids"]
        ids = torch.tensor([asked + tokenizer(item.response)["input_ids"] + [tokenizer.eos_token_id]])

        def logprob(ids: torch.Tensor = ids, start: int = len(asked)) -> float:
            with torch.no_grad():
                logprobs = policy(ids).logits.log_softmax(-1)
            return float(logprobs[0, start - 1 : -1].gather(-1, ids[0, start:, None]).sum())

        tuned = logprob()
        with policy.disable_adapter():
            expected.append(tuned - logprob())
    assert found["o1"] == pytest.approx(expected, **NUMBERS)
    assert found["o0"] == pytest.approx([0.5 * value for value in expected], **NUMBERS)
    assert any(abs(value) > 0.1 for value in expected)


def without(folder: Path, copy: Path, change: Any) -> Path:
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy)
    return copy


PROBLEMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such folder": ({"model": "./nowhere"}, ["nowhere", "no such folder"]),
    "no such head": ({"model": "HEADS", "head": "helpfull"}, ["no head `helpfull`", "helpful, harmless, brief"]),
    "no head with that index": ({"model": "HEADS", "head": 3}, ["no head `3`", "below 3"]),
    "no chat template": ({"model": "UNCHATTY"}, ["no chat template", "set format to"]),
    "no such preset": ({"preset": "beaver"}, ["no such preset", "beaver-7b-reward"]),
    "no adapter": ({"policy": "./nowhere"}, ["nowhere", "no readable PEFT adapter"]),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_is_found_before_scoring(case: str, three_heads: Path, tmp_path: Path) -> None:
    unchatty = without(three_heads, tmp_path / "unchatty", lambda copy: (copy / "chat_template.jinja").unlink())
    reward, words = PROBLEMS[case]
    places = {"HEADS": str(three_heads), "UNCHATTY": str(unchatty)}
    filled = {key: places.get(value, value) if isinstance(value, str) else value for key, value in reward.items()}
    with pytest.raises(SipoError) as caught:
        check_rewards(objectives(filled), CPU)
    line = str(caught.value)
    assert line.startswith("reward `") and all(word in line for word in words), line


def test_a_language_model_is_no_reward_model(model_folder: Path) -> None:
    """transformers would make up a head at random, with a warning."""
    with pytest.raises(SipoError, match=r"reward `model .*no weights for score.weight: it is no trained reward model"):
        score_responses(objectives({"model": str(model_folder)}), ITEMS, CPU)


def test_too_long_a_response_is_named(three_heads: Path) -> None:
    long = Item(CHAT, "water " * 600)
    with pytest.raises(
        SipoError, match=r"the response 'water water.*' to 'how are you\?' has \d+ tokens.*takes 512; lower"
    ):
        score_responses(objectives({"model": str(three_heads)}), [ITEMS[0], long], CPU)


def test_a_damaged_checkpoint_is_named(three_heads: Path, tmp_path: Path) -> None:
    def tear(copy: Path) -> None:
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])

    torn = without(three_heads, tmp_path / "torn", tear)
    with pytest.raises(SipoError, match=r"reward `model .*torn, head 0`: cannot be loaded .*is the folder whole\?"):
        score_responses(objectives({"model": str(torn)}), ITEMS, CPU)


def test_other_weights_are_other_scores(three_heads: Path, tmp_path: Path) -> None:
    """The cache goes by content: a folder whose weights change is scored anew."""
    copy = without(three_heads, tmp_path / "trained", lambda copy: None)
    named = objectives({"model": str(copy), "dtype": "float32"})
    before = score_responses(named, ITEMS[:1], CPU)["o0"]
    model = LlamaForSequenceClassification.from_pretrained(copy)
    nn.init.ones_(model.score.weight)
    model.save_pretrained(copy)
    assert score_responses(named, ITEMS[:1], CPU)["o0"] != before


def test_a_run_is_judged_by_a_reward_model(settings: dict[str, Any], three_heads: Path) -> None:
    """From the file to the fronts: the model reads the chats, and answers of this length differ in their scores."""
    for objective, head in zip(settings["objectives"], ("helpful", "brief"), strict=True):
        objective["reward"] = {"model": str(three_heads), "head": head, "dtype": "float32"}
    config = parse_config({**settings, "methods": ["base", "soups"]}, "here")
    folder = run(config)
    judged = [folder / "judged" / name / "responses.jsonl" for name in config.methods]
    responses = [each for path in judged for each in read_records(path, Response)]
    chats = {row.key: row.prompt for row in read_rows(config.data.path)}
    texts = [chat_text(Item(chats[each.prompt], each.response)) for each in responses]
    expected = by_transformers(three_heads, texts)
    assert [each.rewards["detail"] for each in responses] == pytest.approx([row[0] for row in expected], **NUMBERS)
    assert [each.rewards["brevity"] for each in responses] == pytest.approx([row[2] for row in expected], **NUMBERS)
    assert len({each.rewards["detail"] for each in responses}) > 3


def test_a_model_trained_anew_in_the_same_folder_is_another(three_heads: Path, tmp_path: Path, settings: dict) -> None:
    """Neither the kept scores nor the stages that were measured by it hold any longer."""
    folder = tmp_path / "reward"
    shutil.copytree(three_heads, folder)
    reward = {"model": str(folder), "head": 2, "dtype": "float32"}

    def prints(model: Path) -> dict[str, str]:
        settings["objectives"][0]["reward"] = {**reward, "model": str(model)}
        settings["filter"] = {"rule": "rewards"}
        return stage_keys(parse_config(settings, "settings"), {"model": "m", "rows": "r", "objectives": []})

    before, scores = prints(folder), score_responses(objectives(reward), ITEMS, CPU)["o0"]
    model = LlamaForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight *= 2
    model.save_pretrained(folder)
    after = prints(folder)
    assert [stage for stage in before if before[stage] != after[stage]] == [
        "filter",
        "realign",
        "answers/sipo",
        "judged/base",
        "judged/soups",
        "judged/mod",
        "judged/sipo",
        "compare",
        "report",
    ]
    found = score_responses(objectives(reward), ITEMS, CPU)["o0"]
    assert found == pytest.approx([2 * score for score in scores], **NUMBERS)


def test_an_adapter_trained_anew_in_the_same_folder_is_another(
    backbone: Backbone, model_folder: Path, tmp_path: Path, settings: dict
) -> None:
    settings["objectives"][1]["reward"] = {"policy": str(tmp_path / "policy")}
    prints = []
    for seed in (1, 1, 2):
        save_adapter(random_adapter(backbone, seed), tmp_path / "policy", str(model_folder))
        about = {"model": "m", "rows": "r", "objectives": []}
        prints.append(stage_keys(parse_config(settings, "settings"), about)["judged/base"])
    assert prints[0] == prints[1] != prints[2]
