"""A whole run with whole models: what it keeps is loaded by transformers alone, and a kill changes nothing."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import asking_briefly
from transformers import AutoModelForCausalLM, AutoTokenizer

import sipo
from sipo.bank import load_policy
from sipo.config.file import parse_config
from sipo.disk.tables import read_json, read_records
from sipo.errors import SipoError
from sipo.records import Response
from sipo.remarks import about_rates
from sipo.runs.pipeline import run
from sipo.task import Task

METHODS = ["base", "soups", "mod", "lw", "sipo"]


class Killed(BaseException):
    """As a signal would end it."""


def whole_settings(make_settings: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    settings = asking_briefly(make_settings(folder), folder)
    del settings["lora"]
    align, realign = {**settings["align"], "lr": 1e-3}, {"lr": 1e-4}
    sample = {"prompts": 8, "per_weight": 8}
    return {**settings, "policies": "full", "methods": METHODS, "align": align, "realign": realign, "sample": sample}


@pytest.fixture(scope="module")
def finished(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    settings = whole_settings(make_settings, tmp_path_factory.mktemp("whole"))
    settings["decoding"] = {"temperature": 0.0}
    run(parse_config(settings, "settings"), quiet=True)
    return settings


def test_every_policy_is_a_model(finished: dict[str, Any]) -> None:
    """Greedy answers of transformers' own `generate`, loaded from the folder, are those in the run."""
    config = parse_config(finished, "settings")
    path, task = config.run_dir, Task(config)
    mod = {
        r.prompt: r
        for r in read_records(path / "answers" / "mod" / "responses.jsonl", Response)
        if r.weights == {"detail": 1.0, "brevity": 0.0}
    }
    model = AutoModelForCausalLM.from_pretrained(path / "align" / "adapters" / "detail", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path / "align" / "adapters" / "detail")
    rows = {row.key: row for row in task.splits.test}
    assert mod.keys() == rows.keys()
    for key, row in rows.items():
        prompt = torch.tensor([task.prompt_tokens(row)])
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=sorted(task.codec.stops),
        )
        assert tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip() == mod[key].response
    for stage in ("align", "realign"):
        policies = [load_policy(path / stage / "adapters" / name) for name in config.names]
        assert len({each.identity for each in policies}) == 2 and not any(each.still for each in policies)
    assert (path / "lw" / "adapters" / "0.5,0.5" / "config.json").exists()
    assert list(read_json(path / "compare" / "fronts.json")["methods"]) == METHODS


def test_an_exported_soup_is_the_average_of_the_parameters(finished: dict[str, Any], tmp_path: Path) -> None:
    path, weights = Path(finished["run_dir"]), {"detail": 0.3, "brevity": 0.7}
    folder = sipo.open(path).at(weights, method="soups").save_pretrained(tmp_path / "soup")
    soup = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
    parts = [
        dict(
            AutoModelForCausalLM.from_pretrained(
                path / "align" / "adapters" / name, dtype=torch.float32
            ).named_parameters()
        )
        for name in weights
    ]
    for name, weight in soup.items():
        torch.testing.assert_close(weight, 0.3 * parts[0][name] + 0.7 * parts[1][name], rtol=1e-5, atol=1e-6)
    card = (folder / "README.md").read_text()
    assert "A whole model" in card and "PeftModel" not in card and "LoRA" not in card
    page = (path / "report" / "report.html").read_text()
    assert "whole models" in page and "LoRA" not in page


def test_a_finished_run_answers_with_several_models_in_one_batch(finished: dict[str, Any]) -> None:
    run = sipo.open(finished["run_dir"])
    assert "factor-soups" not in run.methods and {"soups", "mod", "sipo-soups"} < set(run.methods)
    weights = {"detail": 0.3, "brevity": 0.7}
    models = [run.at(weights, method=name) for name in ("base", "soups", "mod", "sipo", "sipo-soups")]
    models.append(run.at({"detail": 0.5, "brevity": 0.5}, method="lw"))
    alone = [model.generate("tell me about water", temperature=0) for model in models]
    assert run.generate([("tell me about water", model) for model in models], temperature=0) == alone
    with pytest.raises(SipoError, match="no factors to average"):
        run.at(weights, method="factor-soups")


def test_rates_of_adapters_are_remarked_on(finished: dict[str, Any]) -> None:
    remarks = about_rates(parse_config(finished, "settings"))
    assert len(remarks) == 2 and remarks[0].startswith("align.lr is 0.001: an adapter's rate")
    slow = {**finished, "align": {"lr": 1e-6}, "realign": {"lr": 5e-7}}
    assert about_rates(parse_config(slow, "settings")) == []
    assert about_rates(parse_config({**slow, "policies": "lora", "align": {}}, "settings")) == []


def content(path: Path) -> dict[str, str]:
    """Digests of all that the run computed."""
    told = ("stage.json", "metrics.jsonl", "config.yaml", "subject.json", "report.html")
    files = [f for f in path.rglob("*") if f.is_file() and f.name not in told and f.suffix != ".png"]
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_killed_run_ends_as_an_undisturbed_one(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the training of the second policy."""
    config = parse_config({**finished, "run_dir": str(tmp_path / "run")}, "settings")
    step, taken = torch.optim.AdamW.step, []

    def killing(self: torch.optim.AdamW, *rest: Any) -> None:
        taken.append(len(taken))
        if taken[0] == 0 and len(taken) == 10:
            raise Killed
        step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", killing)
    with pytest.raises(Killed):
        run(config, quiet=True)
    assert list((config.run_dir / ".partial" / "align" / ".journal").glob("brevity.pt")), "in the second policy"
    before, taken[:] = 10, [10]
    run(config, only="align", quiet=True)
    steps = len((Path(finished["run_dir"]) / "align" / "training.jsonl").read_text().splitlines())
    assert len(taken) - 1 < steps - before + 3, "most of what was trained is not trained again"
    run(config, quiet=True)
    assert content(config.run_dir) == content(Path(finished["run_dir"]))
