"""Using a run: what is exported is what the bank computes, and what answers is what was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import sipo
from sipo.bank import Bank
from sipo.config.file import parse_config
from sipo.data.prompts import parse_prompt
from sipo.declare.parts import POLICIES
from sipo.decoding import Request, at_mod, decode, seed_of
from sipo.decoding.mixture import at_soup
from sipo.errors import SipoError
from sipo.finished.handle import FinishedRun
from sipo.logprobs import mixture
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.message import Message
from sipo.models.load import load_backbone
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.runs.status import read_run
from sipo.task import Task

NAMES = ("detail", "brevity", "tone")
WEIGHT = (0.2, 0.5, 0.3)
SHARES = dict(zip(NAMES, WEIGHT, strict=True))
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def aligned(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three objectives that has its policies, and nothing after them."""
    settings = make_settings(tmp_path_factory.mktemp("aligned"))
    settings["objectives"].append({"name": "tone", "better": "It is kind.", "reward": "sipo.rewards.text:words"})
    settings["methods"] = ["base", "soups", "mod"]
    settings["align"] = {"lr": 0.05, "epochs": 1, "batch_size": 8}
    return run(parse_config(settings, "settings"), only="align", quiet=True)


@pytest.fixture(scope="module")
def opened(aligned: Path) -> FinishedRun:
    return sipo.open(aligned)


@pytest.fixture(scope="module")
def task(aligned: Path) -> Task:
    return Task(read_run(aligned))


@pytest.fixture(scope="module")
def ids(task: Task) -> Tensor:
    return torch.tensor([task.prompt_tokens(task.rows[0])])


def logits_of_the_soup(task: Task, run: Path, ids: Tensor) -> Tensor:
    with task.bank.mounted(Outputs(run, read_run(run)).read("align", POLICIES)):
        logits: Tensor = task.bank.head(
            task.bank.hidden_states(torch.tensor([WEIGHT]), input_ids=ids).last_hidden_state
        )
    return logits


@torch.no_grad()
def test_an_exported_soup_is_the_bank_s_from_any_working_directory(
    aligned: Path, task: Task, ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sipo.open(aligned).at(SHARES, "soups").save_pretrained("soup") == Path("soup")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    base = AutoModelForCausalLM.from_pretrained(task.backbone.source, dtype=torch.float32)
    plain = base(ids).logits
    loaded = PeftModel.from_pretrained(base, "../soup")
    expected = logits_of_the_soup(task, aligned, ids)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-3  # the soup does change the model
    assert loaded.peft_config["default"].base_model_name_or_path == task.backbone.source


@torch.no_grad()
def test_a_merged_soup_is_the_bank_s(aligned: Path, task: Task, ids: Tensor, tmp_path: Path) -> None:
    soups = sipo.open(aligned).at(SHARES, "soups")
    before = soups.generate("how do I", **GREEDY)
    soups.save_pretrained(tmp_path / "merged", merged=True)
    assert soups.generate("how do I", **GREEDY) == before
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert model.dtype == torch.float32
    torch.testing.assert_close(model(ids).logits, logits_of_the_soup(task, aligned, ids), rtol=1e-4, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token_id in task.codec.stops
    assert set(GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id) == task.codec.stops


def test_the_card_says_base_recipe_and_use(aligned: Path, task: Task, tmp_path: Path) -> None:
    card = (sipo.open(aligned).at(SHARES, "soups").save_pretrained(tmp_path / "soup") / "README.md").read_text()
    for part in (task.backbone.source, "detail 0.2, brevity 0.5, tone 0.3", "rows.jsonl", "It is kind.", "PeftModel"):
        assert part in card
    assert "not evaluated" in card


def test_a_one_hot_weight_answers_as_that_policy(aligned: Path, opened: FinishedRun, task: Task) -> None:
    policies = Outputs(aligned, read_run(aligned)).read("align", POLICIES)
    bank = Bank(load_backbone(task.config.model, "cpu"))
    prompt = task.rows[0].prompt
    answers = set()
    for i, name in enumerate(NAMES):
        request = Request(tuple(task.codec.encode_prompt(prompt)), at_soup((1.0,)))
        with bank.mounted([policies[i]]):
            alone = decode(
                bank, [request], task.config.decoding.model_copy(update={"temperature": 0}), 8, task.codec.stops
            )
        expected = task.codec.decode(alone[0].tokens)
        for method in ("mod", "soups"):
            assert opened.at({name: 1.0}, method).generate(prompt[0].content, **GREEDY) == expected
        answers.add(expected)
    assert len(answers) > 1  # or the test would say nothing


def test_pieces_make_up_the_answers_whatever_the_batch(opened: FinishedRun) -> None:
    prompts = ["how do I", "water", "the sun is warm", "what is a plant for", "keep"]
    pieces: dict[int, str] = {}

    def watch(prompt: int, piece: str) -> None:
        pieces[prompt] = pieces.get(prompt, "") + piece

    mod = opened.at(SHARES, "mod")
    answers = mod.generate(prompts, max_new_tokens=12, seed=3, watch=watch)
    assert [pieces.get(i, "") for i in range(len(prompts))] == answers
    assert mod.generate(prompts, max_new_tokens=12, seed=3) == answers
    assert mod.generate(prompts[0], max_new_tokens=12, seed=3) == answers[0]


def test_the_base_needs_no_weights(aligned: Path, opened: FinishedRun, task: Task) -> None:
    prompt = task.rows[0].prompt
    ids = tuple(task.codec.encode_prompt(prompt))
    with task.bank.mounted(Outputs(aligned, read_run(aligned)).read("align", POLICIES)):
        request = Request(ids, at_soup((0.0, 0.0, 0.0)), seed_of(0))
        greedy = task.config.decoding.model_copy(update={"temperature": 0})
        expected = task.codec.decode(decode(task.bank, [request], greedy, 8, task.codec.stops)[0].tokens)
    assert opened.at(method="base").generate(prompt[0].content, **GREEDY) == expected


PROMPTS, RESPONSES = ["how do I water plants?", "what is a plant for"], ["once a week.", "the sun is warm"]


@pytest.mark.parametrize(
    ("method", "point"), [("base", (0.0, 0.0, 0.0)), ("policy:tone", (0.0, 0.0, 1.0)), ("soups", WEIGHT)]
)
def test_the_score_of_a_single_model_is_the_table_s(
    aligned: Path, opened: FinishedRun, task: Task, method: str, point: tuple[float, ...]
) -> None:
    groups = [
        Group(tuple(task.codec.encode_prompt(parse_prompt(x))), (tuple(task.codec.encode_response(y)),))
        for x, y in zip(PROMPTS, RESPONSES, strict=True)
    ]
    with task.bank.mounted(Outputs(aligned, read_run(aligned)).read("align", POLICIES)):
        expected = [value for (value,) in score_rows(task.bank, [(group, point) for group in groups])]
    model = opened.at(SHARES, method)
    found = model.logprobs(PROMPTS, RESPONSES)
    assert found == pytest.approx(expected, abs=1e-3)
    assert model.logprobs(PROMPTS[1], RESPONSES[1]) == pytest.approx(found[1])


@torch.no_grad()
def mixed(task: Task, run: Path, prompt: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """[L, V]: MOD's log-probabilities at each token of the response, from an ordinary forward of the policies."""
    with task.bank.mounted(Outputs(run, read_run(run)).read("align", POLICIES)):
        ids = torch.tensor([[*prompt, *response]] * 3)
        logits = task.bank.head(task.bank.hidden_states(torch.eye(3), input_ids=ids).last_hidden_state)
    logprobs = logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
    return (torch.tensor(WEIGHT) @ logprobs.transpose(0, 1)).log_softmax(-1)


@pytest.mark.parametrize("chunk", [2, 64])
def test_the_score_of_a_mixture_is_the_product_of_its_next_token_probabilities(
    aligned: Path, opened: FinishedRun, task: Task, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "CHUNK", chunk)
    prompt = tuple(task.codec.encode_prompt(parse_prompt(PROMPTS[0])))
    response = tuple(task.codec.encode_response(RESPONSES[0]))
    expected = mixed(task, aligned, prompt, response).gather(1, torch.tensor(response)[:, None]).sum()
    found = opened.at(SHARES, "mod").logprobs(PROMPTS[0], RESPONSES[0])
    assert len(response) > 4 and found == pytest.approx(float(expected), abs=1e-3)

    greedy = task.config.decoding.model_copy(update={"temperature": 0})
    with task.bank.mounted(Outputs(aligned, read_run(aligned)).read("align", POLICIES)):
        (answer,) = decode(task.bank, [Request(prompt, at_mod(WEIGHT))], greedy, 8, task.codec.stops)
        ((logprob,),) = mixture_logprobs(task.bank, Group(prompt, (answer.tokens,)), [at_mod(WEIGHT)])
    assert logprob == pytest.approx(float(mixed(task, aligned, prompt, answer.tokens).amax(1).sum()), abs=1e-3)


ASKED = {"weights": SHARES, "method": "mod", "prompts": ["hi"], "responses": ["a"]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"responses": ["a", "b"]}, "given are 1 prompt and 2 responses; give one response for each prompt"),
        ({"responses": "a"}, "responses is a string; give a list, one for each prompt"),
        ({"prompts": "hi"}, "responses is a list; one prompt has one, a text"),
        ({"responses": [3]}, "response is a number; make it a string"),
        ({"prompts": ["word " * 3000]}, "over the model's context of 2048"),
        ({"prompts": None}, "prompts is null; give a text, or a chat"),
    ],
)
def test_what_cannot_be_scored_is_said(opened: FinishedRun, asked: dict[str, Any], message: str) -> None:
    asked = {**ASKED, **asked}
    with pytest.raises(SipoError) as caught:
        opened.at(asked["weights"], asked["method"]).logprobs(asked["prompts"], asked["responses"])
    assert message in str(caught.value)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "sipo"}, "has no stage `realign`, because its methods are base, soups, mod"),
        ({"method": "magic"}, "`magic` is no method; they are base, "),
        ({"method": "policy:charm"}, "`policy:charm` is no single policy; they are policy:detail"),
        ({"method": 3}, "method is a number"),
        ({"weights": {"detail": 0.5}}, "the shares sum to 0.5, not to 1"),
        ({"weights": {"charm": 1.0}}, "`charm` is no objective; they are detail, brevity, tone"),
        ({"weights": {"detail": "all"}}, "detail is 'all'; give a number"),
        ({"weights": None}, "weights is null; give a share for each objective, such as {'detail': 0.33,"),
        ({"weights": [0.5, 0.5, 0.0]}, "weights is a list; give a share for each objective"),
        ({"method": "base", "weights": {"charm": 1.0}}, "`charm` is no objective; they are detail, brevity, tone"),
        ({"method": "policy:tone", "weights": [1.0]}, "weights is a list; give a share for each objective"),
        ({"temperature": -1.0}, "`temperature` is -1.0"),
        ({"max_new_tokens": 0}, "ask for at least 1"),
        ({"max_new_tokens": "8"}, "max_new_tokens is '8'; ask for at least 1, as a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens is True; ask for at least 1, as a whole number"),
        ({"weights": {"detail": 10**400}}, "is off the simplex"),
        ({"prompts": [" "]}, "prompt is empty; give a text, or a chat"),
        ({"prompts": ["a", "b", ""]}, "prompt 3 of 3: prompt is empty; give"),
        (
            {"prompts": ["a", [{"role": "tool", "content": "b"}]]},
            "prompt 2 of 2: a role other than system, user and assistant; give",
        ),
        ({"prompts": ["word " * 3000]}, "over the model's context of 2048"),
        ({"prompts": 5}, "prompts is a number; give a text, or a chat"),
        ({"prompts": b"hi"}, "prompts is bytes; give"),
        ({"prompts": USER}, "prompts is a mapping; give"),
        ({"prompts": Message("user", "hi")}, "prompts is a message alone; give"),
        ({"prompts": ["hi", None]}, "prompt is null; give"),
        ({"prompts": ["hi", USER]}, "prompt is a mapping; give"),
        ({"prompts": [USER, "hi"]}, "a message that is a string; make it {role, content}"),
        ({"prompts": [("user", "hi")]}, "a message that is a string; make it {role, content}"),
        ({"prompts": [{"role": "user"}]}, "a message without `content`"),
        ({"prompts": [{"role": "wizard", "content": "hi"}]}, "a role other than system, user and assistant"),
        ({"prompts": [USER, {"role": "assistant", "content": "ho"}]}, "its last message must be the user's"),
    ],
)
def test_what_cannot_be_generated_is_said(opened: FinishedRun, asked: dict[str, Any], message: str) -> None:
    asked = {"max_new_tokens": 4, **ASKED, **asked}
    how = {name: value for name, value in asked.items() if name not in ASKED}
    with pytest.raises(SipoError) as caught:
        opened.at(asked["weights"], asked["method"]).generate(asked["prompts"], **how)
    assert message in str(caught.value)


def test_counts_may_be_of_any_library(opened: FinishedRun) -> None:
    model = opened.at({name: np.float64(share) for name, share in SHARES.items()}, "mod")
    others: dict[str, Any] = {"temperature": np.float32(0), "max_new_tokens": np.int64(4)}
    assert model.generate("hi", **others) == model.generate("hi", temperature=0, max_new_tokens=4)


def test_what_is_no_run_and_no_ask_is_said(opened: FinishedRun, aligned: Path, tmp_path: Path) -> None:
    model = opened.at(SHARES, "mod")
    for ask, message in (
        ("hi", "asks[0] is a string; give (prompt, model)"),
        (("hi", SHARES), "asks[0] is tuple; give (prompt, model)"),
        (("hi", sipo.open(aligned).at(SHARES, "mod")), "asks[0]: the model is of sipo.open("),
        ((3, model), "prompt is a number"),
    ):
        with pytest.raises(SipoError) as caught:
            opened.generate([ask])  # type: ignore[list-item]
        assert message in str(caught.value)
    for nothing, what in ((None, "null"), (5, "a number")):
        with pytest.raises(SipoError, match=f"asks is {what}; give a list of"):
            opened.generate(nothing)  # type: ignore[arg-type]
        with pytest.raises(SipoError, match=f"the folder is {what}; name a new one"):
            model.save_pretrained(nothing)  # type: ignore[arg-type]
    with pytest.raises(SipoError, match="holds no run"):
        sipo.open(tmp_path)
    with pytest.raises(SipoError, match="the run is a number; name its folder"):
        sipo.open(5)  # type: ignore[arg-type]


def test_another_model_in_the_same_place_is_refused(aligned: Path, model_folder: Path, tmp_path: Path) -> None:
    config = model_folder / "config.json"
    before = config.read_text()
    try:
        config.write_text(before + " ")
        with pytest.raises(SipoError, match="is not the one that"):
            sipo.open(aligned).at(SHARES, "mod").generate("hi")
        with pytest.raises(SipoError, match="is not the one that"):
            sipo.open(aligned).at(SHARES, "mod").logprobs("hi", "ho")
        with pytest.raises(SipoError, match="is not the one that"):
            sipo.open(aligned).at(SHARES, "soups").save_pretrained(tmp_path / "merged", merged=True)
    finally:
        config.write_text(before)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("sipo.finished.export.model_card", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        sipo.open(aligned).at(SHARES, "soups").save_pretrained(tmp_path / "soup")
    assert list(tmp_path.iterdir()) == []
