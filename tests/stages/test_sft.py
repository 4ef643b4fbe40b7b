"""Supervised fine-tuning as a stage: the codec's tokens, an ordinary model, crashes, and what stands on it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from stage_keys import stage_keys, stage_names
from transformers import AutoModelForCausalLM, AutoTokenizer

import sipo
import sipo.stages.sft
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.disk.tables import read_checked, write_checked
from sipo.errors import SipoError
from sipo.models.load import load_backbone
from sipo.runs.outputs import backbone_of
from sipo.runs.pipeline import run
from sipo.stages.sft import _newest, _plan, _trainer, demonstrations, sft
from sipo.task import Task

pytestmark = pytest.mark.early

TEMPLATE = "BEGINNING OF CONVERSATION: {turns}USER: {prompt} ASSISTANT:"
SMALL = {"lr": 3e-3, "epochs": 1, "batch_size": 2, "accumulate": 2, "max_tokens": 300}


def task_of(settings: dict[str, Any], **sft: Any) -> Task:
    return Task(parse_config({**settings, "sft": {**SMALL, **sft}}, "here"))


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_what_is_learned_is_what_the_codec_writes(settings: dict[str, Any], tmp_path: Path, template: Any) -> None:
    """The trainer's own batches: each label is the token that the codec has there, and -100 on every prompt."""
    settings["model"]["prompt_template"] = template
    task = task_of(settings)
    examples = demonstrations(task)
    expected = []
    for row in task.splits.train:
        prompt = task.codec.encode_prompt(row.prompt)
        responses = list(map(task.codec.encode_response, row.responses))
        assert all(len(response) < task.codec.max_response_tokens for response in responses)
        expected += [(prompt, response) for response in responses]
    assert sorted(examples) == sorted({(tuple(p), tuple(r)) for p, r in expected})
    trainer = _trainer(_plan(task, task.config.sft, examples, tmp_path / "out"))  # type: ignore[arg-type]
    seen = set()
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            real = mask.bool()
            assert (labels[~real] == -100).all()
            learned = labels[real] != -100
            assert torch.equal(ids[real][learned], labels[real][learned])
            seen.add((tuple(ids[real][~learned].tolist()), tuple(ids[real][learned].tolist())))
    assert seen == set(examples)


def test_a_response_over_the_limit_is_cut_and_has_no_end(settings: dict[str, Any]) -> None:
    longest = max(len(p) + len(r) for p, r in demonstrations(task_of(settings)))
    settings["data"]["max_prompt_tokens"] = max(len(p) for p, _ in demonstrations(task_of(settings)))
    limit = longest - 2
    whole = set(demonstrations(task_of(settings)))
    for prompt, response in demonstrations(task_of(settings, max_tokens=limit)):
        assert len(prompt) + len(response) <= limit
        if (prompt, response) not in whole:
            assert response[-1] not in task_of(settings).codec.stops
            assert any(p == prompt and r[: len(response)] == response for p, r in whole)
    assert set(demonstrations(task_of(settings, max_tokens=limit))) != whole


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_the_model_is_an_ordinary_folder_that_knows_the_responses(
    settings: dict[str, Any], model_folder: Path, tmp_path: Path, lora: Any
) -> None:
    task = task_of(settings, lora=lora, epochs=3)
    folder = sft(task, tmp_path / "work")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and not list(folder.glob("adapter*"))
    before = AutoModelForCausalLM.from_pretrained(model_folder)

    def loss(of: Any) -> float:
        total = []
        for prompt, response in demonstrations(task)[:12]:
            ids = torch.tensor([[*prompt, *response]])
            labels = torch.tensor([[-100] * len(prompt) + list(response)])
            with torch.no_grad():
                total.append(float(of(ids, labels=labels).loss))
        return sum(total) / len(total)

    assert loss(model) < loss(before) - 0.1
    tokens = [AutoTokenizer.from_pretrained(each) for each in (folder, model_folder)]
    text = "<|im_start|>user\nwhy is the soil dark?<|im_end|>\n"
    assert tokens[0](text)["input_ids"] == tokens[1](text)["input_ids"]
    assert tokens[0].chat_template == tokens[1].chat_template and tokens[0].eos_token == tokens[1].eos_token
    steps = [json.loads(line) for line in (tmp_path / "work" / "training.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[0]["lr"] < max(record["lr"] for record in steps) > steps[-1]["lr"]


class Killed(BaseException):
    """As a signal would end it."""


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Any, torn: bool
) -> None:
    undisturbed = load_file(sft(task_of(settings, lora=lora), tmp_path / "one") / "model.safetensors")
    seen: list[int] = []
    on_step_end = sipo.stages.sft._Watch.on_step_end

    def watched(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        on_step_end(self, args, state, control, **more)
        seen.append(state.global_step)
        if seen == [1, 2, 3, 4]:
            raise Killed

    monkeypatch.setattr(sipo.stages.sft._Watch, "on_step_end", watched)
    with pytest.raises(Killed):
        sft(task_of(settings, lora=lora), tmp_path / "two")
    checkpoints = tmp_path / "two" / ".journal" / "sft"
    if torn:  # as a kill in the middle of a save leaves it
        (checkpoints / "checkpoint-4").mkdir()
        (checkpoints / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert Path(_newest(checkpoints) or "").name == "checkpoint-3"
    resumed = sft(task_of(settings, lora=lora), tmp_path / "two")
    assert seen[4] == 4, "it goes on after the last whole checkpoint"
    found = load_file(resumed / "model.safetensors")
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[name], undisturbed[name]) for name in found)
    lines = [(tmp_path / run / "training.jsonl").read_text() for run in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in each.splitlines()] for each in lines]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = make_settings(tmp_path_factory.mktemp("sft"))
    settings = {**settings, "methods": ["base", "soups"], "sft": {**SMALL, "lora": {"r": 2, "alpha": 4}}}
    config = parse_config(settings, "here")
    return config, run(config, quiet=True)


def test_policies_are_not_put_on_a_base_of_other_settings(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where it was made anew alone, with settings that have been given up since: the policies hold."""
    folder = shutil.copytree(finished[1], tmp_path / "run")
    record = read_checked(folder / "sft" / "stage.json")
    write_checked(folder / "sft" / "stage.json", {**record, "fingerprint": "another"})
    shares = ["--weights", "detail=0.5,brevity=0.5"]
    ask = ["generate", str(folder), *shares, "--prompt", "tell me", "--max-tokens", "2"]
    merged = ["export", str(folder), *shares, "--merged", "--to", str(tmp_path / "merged")]
    for command in (ask, [*ask, "--method", "base"], [*ask, "--method", "policy:detail"], merged):
        assert main(command) == 2
        assert "stage `sft` is stale" in capsys.readouterr().err


def test_everything_stands_on_the_fine_tuned_model(finished: Any, model_folder: Path, tmp_path: Path) -> None:
    config, folder = finished
    tuned = folder / "sft" / "model"
    assert [path.name for path in (folder / "sft").iterdir() if path.name.startswith(".")] == []
    adapter = json.loads((folder / "align" / "adapters" / "detail" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tuned.resolve())
    opened = sipo.open(folder)
    base = opened.at(method="base").generate("tell me about light", temperature=0.0)
    ids, task = [], Task(config)
    task.site.model = backbone_of(folder, config)
    ids = torch.tensor([task.codec.encode_prompt(_chat("tell me about light"))])
    for model, same in ((tuned, True), (model_folder, False)):
        made = AutoModelForCausalLM.from_pretrained(model).generate(ids, max_new_tokens=12, do_sample=False)
        assert (task.codec.decode(made[0, ids.shape[1] :].tolist()) == base) is same
    soups = opened.at({"detail": 0.5, "brevity": 0.5}, method="soups")
    soups.save_pretrained(tmp_path / "soup")
    soups.save_pretrained(tmp_path / "merged", merged=True)
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tuned), tmp_path / "soup").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(policy(ids).logits, merged(ids).logits, atol=1e-3)
    card = (tmp_path / "soup" / "README.md").read_text()
    assert "fine-tuned on the responses" in card and str(tuned.resolve()) in card


@pytest.mark.parametrize("only", ["align", "answers/base"])
def test_a_stage_made_alone_stands_on_it_too(finished: Any, tmp_path: Path, only: str) -> None:
    config, whole = finished
    folder = shutil.copytree(whole, tmp_path / "run")
    lr = {"lr": 0.02} if only == "align" else {}
    again = config.model_copy(update={"run_dir": folder, "align": config.align.model_copy(update=lr)})
    shutil.rmtree(folder / only)
    run(again, only=only, quiet=True)
    tables = {"align": "logprobs.parquet", "answers/base": "responses.jsonl"}  # no rate of the policies is in these
    assert (folder / only / tables[only]).read_bytes() == (whole / only / tables[only]).read_bytes()
    if only == "align":
        adapter = json.loads((folder / "align" / "adapters" / "detail" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == str((folder / "sft" / "model").resolve())


def _chat(text: str) -> Any:
    from sipo.message import Message

    return (Message("user", text),)


def test_a_change_of_it_makes_all_that_follows_anew(finished: Any) -> None:
    config, _ = finished
    about = {"model": "m", "rows": "r", "objectives": list(config.names)}
    before = stage_keys(config, about)
    changed = config.model_copy(update={"sft": config.sft.model_copy(update={"lr": 1e-3})})
    after = stage_keys(changed, about)
    assert list(before) == [
        "sft",
        "align",
        "answers/base",
        "answers/soups",
        "judged/base",
        "judged/soups",
        "compare",
        "report",
    ]
    assert all(before[name] != after[name] for name in before)
    off = config.model_copy(update={"sft": config.sft.model_copy(update={"enabled": False})})
    none = config.model_copy(update={"sft": None})
    assert stage_keys(off, about) == stage_keys(none, about)
    assert "sft" not in stage_names(off)


def test_a_stage_alone_stands_on_the_fine_tuned_model(finished: Any, tmp_path: Path) -> None:
    config, folder = finished
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "align")
    run(config.model_copy(update={"run_dir": tmp_path / "run"}), quiet=True, only="align")
    names = [Path("align/logprobs.parquet")]
    names += [Path(f"align/adapters/{name}/adapter_model.safetensors") for name in config.names]
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


def test_a_finished_run_does_nothing_again(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.parent != folder}
    run(config, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_trl_it_says_what_to_install(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    with pytest.raises(SipoError, match=r"sft: needs TRL .*; `.* -m pip install .*'trl>=[\d.]+'"):
        run(task_of(settings).config, quiet=True)


def test_a_limit_without_room_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SipoError, match="sft.max_tokens: leaves no room"):
        task_of(settings, max_tokens=200)


def test_bf16_weights_are_trained_in_float32(settings: dict[str, Any], tmp_path: Path) -> None:
    """At this rate most of a bf16 weight's updates would round away; the model itself stays bf16."""
    settings["model"]["dtype"] = "bfloat16"
    task = task_of(settings, lr=1e-4)
    source = load_backbone(task.config.model, "cpu").model.state_dict()
    plan = _plan(task, task.config.sft, demonstrations(task), tmp_path)  # type: ignore[arg-type]
    trainer = _trainer(replace(plan, dtype=torch.bfloat16))
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    folder = sft(task, tmp_path / "work")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    found = load_backbone(task.config.model.model_copy(update={"path": str(folder)}), "cpu").model.state_dict()
    assert any(not torch.equal(found[name], source[name]) for name in source)
