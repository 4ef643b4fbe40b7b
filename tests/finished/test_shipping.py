"""What a run gives away: its card, a lower rank, and what others make of it, all from one small run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from hub import Hub, standing_in
from huggingface_hub import ModelCard, constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

import sipo
from sipo.bank import cut, load_adapter, soup
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.declare.parts import CANDIDATES, POLICIES
from sipo.disk.tables import read_records
from sipo.errors import SipoError
from sipo.filters.contest import CHOSEN
from sipo.finished.distil import Distilled, distil
from sipo.finished.numbers import of_distilled
from sipo.graph.build import Graph
from sipo.graph.distil import distilled as graph_of
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.message import Message
from sipo.play.about import about
from sipo.records import Sample
from sipo.rewards.grpo import reward_functions
from sipo.runs.outputs import Outputs
from sipo.runs.pipeline import run
from sipo.runs.status import fronts_of, read_run
from sipo.serve.naming import Served, resolve
from sipo.serve.service import Limits
from sipo.task import Task

HALF = "detail=0.5,brevity=0.5"
EVEN = {"detail": 0.5, "brevity": 0.5}


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = make_settings(tmp_path_factory.mktemp("shipping"))
    settings["methods"] = ["base", "soups", "mod", "sipo"]
    settings["align"] = {"lr": 0.05, "epochs": 1, "batch_size": 8, "checkpoint": "last"}
    settings["refine"] = {"enabled": False}
    settings["evaluate"] |= {"prompts": 5}
    return run(parse_config(settings, "settings"), quiet=True)


Told = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """A command's record, and what it says beside."""

    def run(*argv: object) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        assert main([*map(str, argv), "--json"]) == 0, capsys.readouterr().err
        captured = capsys.readouterr()
        return json.loads(captured.out), captured.err

    return run


def test_a_card_has_what_was_measured_of_this_very_model(finished: Path, tmp_path: Path) -> None:
    """In the header as evaluation results, in the text with the front; at a weight that was not measured, none."""
    opened = sipo.open(finished)
    fronts = fronts_of(finished, opened.config) or {}
    points = fronts["methods"]["soups"]["points"]
    (measured,) = (point for point in points if set(point["weights"].values()) == {0.5})
    for share, there in ((0.5, True), (0.3, False)):
        model = opened.at({"detail": share, "brevity": 1 - share}, method="soups")
        card = ModelCard.load(model.save_pretrained(tmp_path / str(share)) / "README.md")
        found = {each.metric_type: each.metric_value for each in card.data.eval_results or ()}
        assert found == ({name: round(value, 4) for name, value in measured["rewards"].items()} if there else {})
        assert card.data.library_name == "peft" and card.data.license is None
        front = card.text.partition("## Front")[2].partition("## Limits")[0]
        assert front.count("| soups |") == len(points)
        assert f"{fronts['prompts']} held-out prompts" in card.text and "licence" in card.text


def test_the_licence_is_the_base_models(finished: Path, tmp_path: Path) -> None:
    opened = sipo.open(finished)
    card = Path(opened.config.model.path) / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: odd\nlicense_link: LICENSE\nlanguage: en\n---\n# A model\n")
    try:
        folder = opened.at({"detail": 1}, method="soups").save_pretrained(tmp_path / "soup")
    finally:
        card.unlink()
    about = ModelCard.load(folder / "README.md").data
    assert (about.license, about.license_name, about.license_link) == ("other", "odd", "LICENSE")


def test_a_lower_rank_says_its_loss(finished: Path, tmp_path: Path, told: Told) -> None:
    words = ("export", finished, "--weights", HALF, "--method", "soups", "--to")
    made, beside = told(*words, tmp_path / "cut", "--rank", 1)
    assert made["rank"] == 1 == load_adapter(tmp_path / "cut").rank
    assert made["cut"]["exact_rank"] == 4 and 0 < made["cut"]["mean"] <= made["cut"]["worst"] < 1
    assert made["cut"]["nats_per_token"] > 0 and f"{made['cut']['worst']:.3f} at worst" in beside
    assert (
        f"r 1 here, cut from 4: relative error of a layer's update {made['cut']['worst']:.3f} at worst"
        in (tmp_path / "cut" / "README.md").read_text()
    )
    less, _ = told(*words, tmp_path / "less", "--rank", 3)
    assert less["cut"]["nats_per_token"] < made["cut"]["nats_per_token"]
    whole, beside = told(*words, tmp_path / "whole", "--rank", 64)
    assert (whole["rank"], whole["cut"]) == (4, None) and "nothing was cut" in beside


def test_a_rank_that_is_none_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(finished), "--weights", HALF, "--method", "soups", "--to", str(tmp_path / "out")]
    assert main([*words, "--rank", "2", "--merged"]) == 2
    assert "leave the rank out" in capsys.readouterr().err
    assert main([*words, "--rank", "0"]) == 2
    model = sipo.open(finished).at({"detail": 1}, method="soups")
    for rank in (0, True, 1.5, "2"):
        with pytest.raises(SipoError, match="ask for at least 1, as a whole number"):
            model.save_pretrained(tmp_path / "out", rank=rank)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def distilled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, in which MOD was distilled at even weights without a break."""
    run = tmp_path_factory.mktemp("distilled") / "run"
    shutil.copytree(finished, run)
    distil(sipo.open(run), EVEN, "mod", quiet=True)
    return run


def test_a_killed_distillation_goes_on_and_ends_alike(
    distilled: Path, finished: Path, tmp_path: Path, executed: list[str], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command: no answer and no training is made again, nor is anything where all of it is there."""
    words = ("export", finished, "--weights", HALF, "--distil", "--method", "mod", "--to")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sipo.stages.distil._preferring", stop)
        assert main([*map(str, words), str(tmp_path / "one")]) == 130
    place = "distilled/mod-0_5-0_5"
    assert executed == [f"{place}/answers", f"{place}/policy"] and not (tmp_path / "one").exists()
    with monkeypatch.context() as patch:
        patch.setattr("sipo.stages.distil._soup", stop)  # where the first training begins
        made, beside = told(*words, tmp_path / "one")
    assert executed[2:] == [f"{place}/policy", f"{place}/judged"] and "less mod" in beside
    again, _ = told(*words, tmp_path / "two")
    assert len(executed) == 4 and {**again, "folder": None, "serve": None} == {**made, "folder": None, "serve": None}
    file = f"{place}/policy/adapters/preferred/adapter_model.safetensors"
    assert (finished / file).read_bytes() == (distilled / file).read_bytes()


def test_a_distilled_adapter_is_measured_beside_its_mixture(distilled: Path, tmp_path: Path, told: Told) -> None:
    """Which answers as in the run itself, at a weight that this measured; the card has the adapter's point."""
    made, _ = told("export", distilled, "--weights", HALF, "--distil", "--method", "mod", "--to", tmp_path / "one")
    config = read_run(distilled)
    points, names = made["distilled"]["points"], ["detail", "brevity"]
    measured = (fronts_of(distilled, config) or {})["methods"]["mod"]["points"]
    (mod,) = (point for point in measured if set(point["weights"].values()) == {0.5})
    assert points["mod"]["rewards"] == pytest.approx(mod["rewards"])
    for name in ("mod", "soup", "base"):
        gains = made["distilled"]["differences"][name]
        raw = [points["distilled"]["rewards"][each] - points[name]["rewards"][each] for each in names]
        assert [gains[each][0] for each in names] == pytest.approx([raw[0], -raw[1]])
        assert gains["utility"][0] == pytest.approx((raw[0] - raw[1]) / 2, abs=1e-9)
    card = ModelCard.load(tmp_path / "one" / "README.md")
    found = {each.metric_type: each.metric_value for each in card.data.eval_results or ()}
    assert found == {name: round(points["distilled"]["rewards"][name], 4) for name in names}
    assert f"learned {made['distilled']['answers']} answers of `mod`" in card.text
    adapter = load_adapter(tmp_path / "one")
    assert adapter.rank == made["rank"] == config.lora.r


def test_a_distilled_adapter_has_learned(distilled: Path) -> None:
    """More than the soup that it began as, it prefers what MOD answered to what the base model did."""
    outputs, task = Outputs(distilled, read_run(distilled)), sipo.open(distilled).task
    place = distilled / "distilled/mod-0_5-0_5"
    answers: dict[str, dict[bool, tuple[int, ...]]] = {}
    for each in read_records(place / "answers/samples.jsonl", Sample):
        answers.setdefault(each.prompt, {})[bool(each.weights)] = tuple(each.tokens)
    prompts = {row.key: task.prompt_tokens(row) for row in task.splits.train}
    groups = [
        (Group(prompts[key], (both[True], both[False])), (1.0,)) for key, both in answers.items() if key in prompts
    ]
    start = cut(soup(outputs.read("align", POLICIES), (0.5, 0.5)), task.config.lora.r)[0]
    margins = []
    for adapter in (start, load_adapter(place / "policy/adapters/preferred")):
        with task.bank.mounted([adapter]):
            margins.append(sum(one - other for one, other in score_rows(task.bank, groups)))
    assert margins[1] > margins[0] + 0.01 * len(groups) and len(groups) > 20


def test_a_distilled_policy_is_asked_by_its_name(
    distilled: Path, finished: Path, tmp_path: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python, by the commands and by the server, at the weight that it was made for."""
    place = distilled / "distilled/mod-0_5-0_5"
    run = sipo.open(distilled)
    model, prompt = run.at(EVEN, "distilled:mod"), "how do I water plants?"
    assert run.trained("distilled:mod") == [EVEN] and run.trained("mod") is None
    shown = about(Served.of("run", run), ["run"], Limits(8))["methods"]
    assert [each["trained"] for each in shown if each["name"] == "distilled:mod"] == [[[0.5, 0.5]]]
    ids = tuple(run.task.codec.encode_prompt([Message("user", prompt)]))
    said = tuple(run.task.codec.encode_response("once"))
    with run.task.bank.mounted([load_adapter(place / "policy/adapters/preferred")]):
        (expected,) = score_rows(run.task.bank, [(Group(ids, (said,)), (1.0,))])[0]
    assert model.logprobs(prompt, "once") == pytest.approx(expected, abs=1e-4)
    assert model.logprobs(prompt, "once") != pytest.approx(run.at(EVEN, "mod").logprobs(prompt, "once"), abs=1e-4)

    served = Served.of("run", run)
    assert "run/distilled:mod" in served.names() and "run/distilled:sipo" not in served.names()
    named = resolve({"run": served}, "run/distilled:mod:detail=1,brevity=1", None)
    assert named.model.aligned == model.aligned and named.name == "run/distilled:mod:detail=0.5,brevity=0.5"

    words = ("generate", str(distilled), "--prompt", prompt, "--method", "distilled:mod", "--weights")
    assert main([*words, HALF, "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == model.generate(prompt, temperature=0)
    assert main([*words, "detail=1"]) == 2
    assert "`mod` was distilled at detail=0.5,brevity=0.5" in capsys.readouterr().err
    with pytest.raises(SipoError, match="`mod` was distilled at no weight"):
        sipo.open(finished_without(finished, tmp_path)).at(EVEN, "distilled:mod")
    with pytest.raises(SipoError, match="`magic` is no method"):
        run.at(EVEN, "distilled:magic")
    with pytest.raises(SipoError, match="by --method mod and --distil"):
        model.save_pretrained(tmp_path / "one")

    status, _ = told("status", distilled)
    states = {each["name"]: each["state"] for each in status["distilled"]}
    assert states == {f"distilled/mod-0_5-0_5/{each}": "done" for each in ("answers", "policy", "judged")}
    assert not {each["name"] for each in status["stages"]} & states.keys() and status["done"]


def finished_without(run: Path, folder: Path) -> Path:
    """A copy of the run in which nothing was distilled."""
    shutil.copytree(run, folder / "copy", ignore=shutil.ignore_patterns("distilled"))
    return folder / "copy"


def test_what_is_no_mixture_is_not_distilled(
    finished: Path,
    tmp_path: Path,
    executed: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*more: str, weights: str = HALF) -> str:
        words = ["export", str(finished), "--weights", weights, "--distil", "--to", str(tmp_path / "out"), *more]
        assert main(words) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    for method in ("soups", "base", "policy:detail"):
        assert f"`{method}` is one model at this weight" in refused("--method", method)
    assert "`sipo` is one model at this weight" in refused(weights="detail=1")
    for method in ("prompting", "best-of-n"):
        assert f"`{method}` is a way of asking the model" in refused("--method", method)
    assert "leave --rank out" in refused("--rank", "2")
    assert "looks like `owner/name`" in refused("--base", "gpt2")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "exists and is not empty" in refused("--to", str(tmp_path / "taken"))
    assert not executed
    opened = sipo.open(finished)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SipoError, match="is read-only, and what is distilled is kept there"):
        distil(opened, EVEN, "mod", quiet=True)


def test_without_rewards_a_distilled_model_says_so(finished: Path) -> None:
    config = read_run(finished)
    bare = [each.model_copy(update={"reward": None}) for each in config.objectives]
    graph = Graph(config.model_copy(update={"objectives": tuple(bare), "methods": ("mod",)}))
    assert graph_of(graph, "mod", (0.5, 0.5)).judged is None
    assert "was not measured, since no objective has a reward" in of_distilled(Distilled("mod", 7), config)


def test_chosen_responses_are_rows_that_trl_trains_on(finished: Path, tmp_path: Path, told: Told) -> None:
    """One step of its DPO, on what its loader reads; every response is one that the filter chose, before an original."""
    made, beside = told("data", "export", finished, "--to", tmp_path / "trl", "--format", "trl")
    data = load_dataset("json", data_files=made["file"], split="train", cache_dir=str(tmp_path / "cache"))
    outputs, config = Outputs(finished, read_run(finished)), read_run(finished)
    chosen = [each for each in outputs.read("filter", CANDIDATES) if each.fate == CHOSEN]
    rows = {row.id: row for row in Task(config).rows}
    assert made["responses"] == len(chosen) > 0 and f"{made['pairs']} pairs of {len(chosen)}" in beside
    assert {(each["chosen"][0]["content"], each["weights"]["detail"]) for each in data} == {
        (each.response, each.weights["detail"]) for each in chosen
    }
    originals = {text for each in chosen for text in rows[each.row].responses}
    assert len(data) == made["pairs"] and all(each["rejected"][0]["content"] in originals for each in data)
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    arguments = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    DPOTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer).train()
    assert any((weight != before[name]).any() for name, weight in model.named_parameters())


@pytest.mark.parametrize("format", ["llama-factory", "llama-factory-alpaca"])
def test_chosen_responses_are_llama_factory_s(format: str, finished: Path, tmp_path: Path, told: Told) -> None:
    """Its dataset_info.json names every column that there is for it; our own reader of the format reads the file."""
    made, _ = told("data", "export", finished, "--to", tmp_path / "out", "--format", format)
    (about,) = json.loads((tmp_path / "out" / "dataset_info.json").read_text()).values()
    first = json.loads(Path(made["file"]).read_text().splitlines()[0])
    assert about["file_name"] == "chosen.jsonl" and about["ranking"] and set(about["columns"].values()) <= first.keys()
    prepared, _ = told("data", "prepare", made["file"], "--to", tmp_path / "rows", "--objectives", "chosen")
    assert prepared["rows"] == made["pairs"]


def test_a_run_that_chose_nothing_exports_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object) -> str:
        assert main(["data", "export", *map(str, words), "--to", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "--format axolotl: no such format; they are trl, " in refused(finished, "--format", "axolotl")
    assert "holds no run" in refused(tmp_path)
    config = read_run(finished)
    rows = config.data.path.read_text()
    try:
        config.data.path.write_text(rows.replace("tell me", "say"))
        assert f"{config.data.path}: has other rows than {finished} was made with" in refused(finished)
        with pytest.raises(SipoError, match="was made with other rows than are there now; put those back"):
            distil(sipo.open(finished), EVEN, "mod", quiet=True)
    finally:
        config.data.path.write_text(rows)
    fewer = config.model_copy(update={"methods": ("base", "mod")})
    monkeypatch.setattr("sipo.finished.chosen.read_run", lambda _: fewer)
    assert "has chosen no responses, because its methods are base, mod; add sipo" in refused(finished)


def module_in(folder: Path) -> Any:
    spec = spec_from_file_location("sipo_rewards", folder / "sipo_rewards.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rewards_are_grpo_s(finished: Path, tmp_path: Path, told: Told) -> None:
    """As its trainer calls them: by name, on chats and texts, smaller being better where the run minimises; one step."""
    made, _ = told("export", finished, "--weights", "detail=0.3,brevity=0.7", "--to-grpo", tmp_path / "grpo")
    module = module_in(tmp_path / "grpo")
    assert module.reward_weights == made["reward_weights"] == [0.3, 0.7]
    assert [each.__name__ for each in module.reward_funcs] == ["detail", "brevity"]
    chat, answer = [{"role": "user", "content": "why?"}], [{"role": "assistant", "content": "so it is"}]
    for prompts, completions in (([chat] * 2, [answer] * 2), (["why?"] * 2, ["so it is"] * 2)):
        given = [
            f(prompts=prompts, completions=completions, completion_ids=[[1]] * 2, topic=["a"] * 2)
            for f in module.reward_funcs
        ]
        assert given == [[3.0, 3.0], [-3.0, -3.0]]

    path = read_run(finished).model.path
    seen: list[list[float]] = []
    detail, brevity = module.reward_funcs

    def watched(**given: Any) -> list[float]:
        seen.append(detail(**given))
        return seen[-1]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(path),
        reward_funcs=[watched, brevity],
        args=GRPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=2,
            num_generations=2,
            use_cpu=True,
            max_completion_length=4,
            reward_weights=module.reward_weights,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": chat}] * 2),
    )
    trainer.train()
    (log,) = (each for each in trainer.state.log_history if "reward" in each)
    mean = sum(seen[0]) / len(seen[0])
    assert len(seen[0]) == 2 and log["reward"] == pytest.approx(0.3 * mean - 0.7 * mean, abs=1e-5)


def test_rewards_that_no_completion_has_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(finished), "--weights", HALF]
    for more, why in (
        ([], "give one of them"),
        (["--to", "a", "--to-grpo", "b"], "give one of them"),
        (["--to-grpo", "b", "--merged"], "writes rewards, and no model"),
    ):
        assert main([*words, *more]) == 2
        assert why in capsys.readouterr().err
    with pytest.raises(SipoError, match="objective `a`: its reward is missing"):
        reward_functions([{"name": "a", "better": "It is good."}])
    judge = {"judge": "http://localhost:1/v1", "model": "m", "pairwise": True}
    with pytest.raises(SipoError, match="objective `a`: its reward compares with the base model's answer"):
        reward_functions([{"name": "a", "better": "It is good.", "reward": judge}])


@pytest.fixture(scope="module")
def adapter(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = sipo.open(finished).at({"detail": 1}, method="soups")
    return model.save_pretrained(tmp_path_factory.mktemp("push") / "soup", base="someone/model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """In the place of the one there is, with a token for it."""
    with standing_in() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_ours")
        yield hub


def test_a_push_sends_what_a_dry_run_shows(hub: Hub, adapter: Path, told: Told) -> None:
    """Private, all files as they are; again it is a commit more."""
    shown, beside = told("push", adapter, "--to", "me/soup", "--dry-run")
    assert not hub.asked and shown["dry_run"] and "nothing was sent" in beside
    sizes = {each.name: each.stat().st_size for each in adapter.iterdir()}
    assert shown["files"] == sizes and shown["bytes"] == sum(sizes.values())
    made, beside = told("push", adapter, "--to", "me/soup")
    assert hub.repos["me/soup"]["private"] and made["private"] and "which is private" in beside
    assert hub.repos["me/soup"]["files"] == {each.name: each.read_bytes() for each in adapter.iterdir()}
    assert made["url"] == f"{hub.url}/me/soup" and hub.tokens == {"Bearer hf_ours"}
    assert told("push", adapter, "--to", "me/soup")[0]["private"]
    assert (
        not told("push", adapter, "--to", "me/open", "--public")[0]["private"] and not hub.repos["me/open"]["private"]
    )


def test_a_public_repository_is_not_taken_for_a_private_one(
    hub: Hub, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repos["me/soup"] = {"private": False, "files": {}}
    assert main(["push", str(adapter), "--to", "me/soup"]) == 2
    assert "me/soup: is there and is public; --public says" in capsys.readouterr().err
    assert not hub.repos["me/soup"]["files"]


@pytest.mark.parametrize(
    ("verb", "status", "why"),
    [
        ("create", 401, "the hub does not know the token; `hf auth login` keeps a new one, or set HF_TOKEN (401)"),
        ("create", 403, "the token may not write to `me`; take one that may, or name another place (403)"),
        ("preupload", 403, "the token may not write to `me`"),
        ("batch", 500, "was not sent|the hub answered"),
        ("put", 403, "was not sent|the token may not"),
        ("commit", 409, "something else was changed there at the same time; run the same command again (409)"),
        ("commit", 400, "the hub answered no commit today (400)"),
        ("create", 429, "too many requests"),
    ],
)
def test_what_the_hub_refuses_is_a_line(
    verb: str,
    status: int,
    why: str,
    hub: Hub,
    adapter: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries of what may pass
    hub.refuses[verb] = status
    assert main(["push", str(adapter), "--to", "me/soup"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: me/soup: ") and said.count("\n") == 1 and any(each in said for each in why.split("|"))
    )
    assert "hf_ours" not in said


def test_a_push_without_a_way_to_xet_says_how_to_go_without(
    hub: Hub, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert main(["push", str(adapter), "--to", "me/soup"]) == 2
    said = capsys.readouterr().err
    assert "was not sent" in said and "HF_HUB_DISABLE_XET=1" in said and said.count("\n") == 1
    assert not hub.repos["me/soup"]["files"]


def test_a_push_is_stopped_by_a_signal_whatever_the_library_is_at(
    hub: Hub, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code gives signals no way to Python, so it must not be in the main thread."""
    where, ended = list[threading.Thread](), threading.Event()

    def stuck(*_: Any, **__: Any) -> None:
        where.append(threading.current_thread())
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait(60)

    monkeypatch.setattr("sipo.cli.push.send", stuck)
    assert main(["push", str(adapter), "--to", "me/soup"]) == 128 + signal.SIGTERM
    ended.set()
    assert where[0] is not threading.main_thread() and where[0].daemon
    assert capsys.readouterr().err == "stopped\n"


def test_what_is_not_to_be_sent_is_not(
    hub: Hub,
    adapter: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = sipo.open(finished).at({"detail": 1}, method="soups")
    there = local.save_pretrained(tmp_path / "local")
    merged = local.save_pretrained(tmp_path / "merged", merged=True)
    (tmp_path / "empty").mkdir()
    capsys.readouterr()  # transformers may tell how it writes

    def refused(folder: object, to: str = "me/soup") -> str:
        assert main(["push", str(folder), "--to", to]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert f"its base model is {read_run(finished).model.path}, on this machine alone" in refused(there)
    assert "its base model is on this machine alone; export it again with --base ID" in refused(merged)
    assert "holds no model with a card that `sipo export` wrote" in refused(tmp_path / "empty")
    assert "no such folder" in refused(tmp_path / "none") and "holds no model" in refused(finished)
    for to in ("soup", "a/b/c", "a b/c", "/c", "a/", "-a/b", "a/b.git", ""):
        assert "is no place on the hub" in refused(adapter, to)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("sipo.finished.pushing.get_token", lambda: None)
    assert "the hub wants a token; `hf auth login` keeps one, or set HF_TOKEN" in refused(adapter)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so nothing is sent" in refused(adapter)
    assert not hub.asked


def test_no_network_is_a_line(adapter: Path, tmp_path: Path) -> None:
    """In a process of its own, by the environment alone."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_ours", "HF_HUB_OFFLINE": "0"}
    words = [sys.executable, "-m", "sipo", "push", str(adapter), "--to", "me/soup"]
    done = subprocess.run(
        words, env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: http://127.0.0.1:9: no answer (") and "is there a network?" in done.stderr
