"""The first number that is none stops the work: in training, in the table, in decoding, in what is written."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import random_adapter
from torch import Tensor

from sipo.bank import Adapter, Bank, new_adapter
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.decoding import Request, at_mod, at_soup, base, decode
from sipo.decoding.mixture import Mixture
from sipo.decoding.sampling import BROKEN, next_tokens
from sipo.engines.drafts import Draft, rows_of, settle
from sipo.errors import SipoError
from sipo.finished.export import save_merged
from sipo.finite import finite
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.models.load import Backbone, load_backbone
from sipo.rewards import Item, score_responses
from sipo.rewards.objective import Objective
from sipo.runs.pipeline import run
from sipo.settings import Decoding, Execution, Lora, Model, Training
from sipo.training.learner import Job, Recipe
from sipo.training.loop import Example, Examples, Loss, train
from sipo.training.optimise import optimise

GROUP = Group((5, 6, 7, 8), ((9, 10), (11, 12, 13)))
SETTINGS = Training(epochs=2, batch_size=1, warmup=0.0)


@contextmanager
def spoilt(parameter: Tensor, value: float) -> Iterator[None]:
    """One number of a loaded model is no number."""
    place = (0,) * parameter.dim()
    kept = parameter[place].clone()
    with torch.no_grad():
        parameter[place] = value
    try:
        yield
    finally:
        with torch.no_grad():
            parameter[place] = kept


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_first_is_named_by_its_place(value: float, place: int) -> None:
    numbers = [1.0, -2.0, 0.0, 1e300, -1e-300, 4.0]
    finite(numbers, "none")
    finite(np.array(numbers).reshape(2, 3), "none")
    finite(torch.tensor(numbers, dtype=torch.float64), "none")
    finite(dict(zip("abcdef", numbers, strict=True)), "none")
    finite([], "none")
    numbers[place] = value
    for each in (numbers, np.array(numbers).reshape(2, 3), torch.tensor(numbers, dtype=torch.float64)):
        with pytest.raises(SipoError, match=rf"^row {place} is {value}, no finite number; go"):
            finite(each, lambda index: f"row {index}", "go")
    with pytest.raises(SipoError, match=f"^step: {'abcdef'[place]} is {value}"):
        finite(dict(zip("abcdef", numbers, strict=True)), "step")


# Training


@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_training_that_diverges_stops_at_its_step(bank: Bank, backbone: Backbone, lr: float) -> None:
    start = new_adapter(backbone.model, Lora(r=2), seed=0)
    examples = [Example(GROUP, (-3.0, -4.0), ((0, 1, 1.0),))] * 3
    message = r"^objective a[,:] (step \d of 6|a learning rate|loss after).*; go another way$"
    for validation in ([], examples[:1]):
        with pytest.raises(SipoError, match=message):
            train(
                bank, start, Examples(examples, validation), Recipe(SETTINGS, lr, 0, keep_best=True),
                Loss(SETTINGS.beta), job=Job("objective a", "go another way"),
            )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient", "validation", "parameter"])
def test_the_loop_stops_before_it_learns_from_what_is_not_finite(what: str, value: float) -> None:
    parameter = torch.ones(3, requires_grad=True)
    steps: list[int] = []

    def backward(batch: list[int]) -> dict[str, float]:
        steps.append(len(steps) + 1)
        third = len(steps) == 3
        parameter.grad = torch.full((3,), value if what == "gradient" and third else 0.1)
        if what == "parameter" and len(steps) == 4:
            with torch.no_grad():
                parameter[1] = value
        return {"loss": value if what == "loss" and third else 1.0}

    def validate() -> float:
        return value if what == "validation" and len(steps) == 4 else 1.0

    named = {
        "loss": "sums, step 3 of 4: loss", "gradient": "sums, step 3 of 4: gradient norm",
        "validation": "sums, step 4 of 4: validation loss", "parameter": "sums, step 4 of 4: a parameter",
    }[what]  # fmt: skip
    with pytest.raises(SipoError, match=f"^{named} is .*; rest"):
        recipe = Recipe(SETTINGS, 0.01, 0, keep_best=True)
        optimise([parameter], 2, backward, recipe, validate=validate, job=Job("sums", "rest"))
    assert len(steps) == (3 if what in ("loss", "gradient") else 4)
    if what in ("loss", "gradient"):
        assert parameter.isfinite().all()


@pytest.mark.parametrize("setting", ["align.lr", "realign.lr"])
def test_a_run_that_diverges_names_the_key_and_goes_on_with_another(settings: dict[str, Any], setting: str) -> None:
    section, key = setting.split(".")
    settings["methods"] = ["sipo"] if section == "realign" else ["soups"]
    settings["refine"]["enabled"] = False
    settings["filter"] = {"rule": "random"}
    wild = {**settings, section: {**settings[section], key: 1e30}}
    with pytest.raises(
        SipoError, match=rf"objective detail[,:] (step \d+ of \d+|loss after).*lower {setting}, which is 1e\+30"
    ):
        run(parse_config(wild, "here"), quiet=True)
    folder = Path(settings["run_dir"])
    assert not (folder / section).exists(), "a stage is whole or absent"


def test_fine_tuning_that_diverges_stops(settings: dict[str, Any]) -> None:
    settings["methods"] = ["base"]
    settings["sft"] = {"lr": 1e30, "epochs": 1, "batch_size": 4, "accumulate": 1, "warmup": 0.0}
    with pytest.raises(SipoError, match=r"^sft, step \d+ of \d+: (loss|grad_norm) is .*; lower sft.lr"):
        run(parse_config(settings, "here"), quiet=True)
    assert not (Path(settings["run_dir"]) / "sft").exists()


@pytest.mark.parametrize(
    "extra", [["--rank", "0", "--held-out", "0.3"], ["--rank", "2", "--held-out", "0.3"], ["--held-out", "0"]]
)
@pytest.mark.parametrize("lr", ["1e20", "1e38"])
def test_a_reward_training_that_diverges_is_not_written(
    model_folder: Path, tmp_path: Path, rows_file: Path, capsys: pytest.CaptureFixture[str], extra: list[str], lr: str
) -> None:
    to = tmp_path / "reward"
    command = ["reward", "train", "--data", str(rows_file), "--model", str(model_folder), "--to", str(to)]
    assert main([*command, "--objectives", "detail,brevity", "--device", "cpu", "--lr", lr, *extra]) == 2
    told = capsys.readouterr().err
    assert "lower the learning rate (--lr)" in " ".join(told.split()) and "Traceback" not in told
    assert not to.exists()


# What a model says


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layer", ["embed_tokens", "layers.1.mlp.up_proj", "norm"])
def test_a_broken_model_scores_nothing(bank: Bank, value: float, layer: str) -> None:
    parameter = bank.model.model.get_submodule(layer).weight
    group = Group((0, 5), GROUP.responses)  # row 0 of the embedding is read
    with spoilt(parameter, value), bank.mounted([]):
        with pytest.raises(SipoError, match=r"log pi\(y \| x\) under the model itself, of a response to the prompt"):
            score_rows(bank, [(group, ())])
        with pytest.raises(SipoError, match=r"log pi\(y \| x\) under"):
            mixture_logprobs(bank, group, [base(0)])


def overflowing(adapter: Adapter) -> Adapter:
    """Finite itself; what it adds is not, wherever it is not weighted with 0."""
    return replace(adapter, factors={name: (a, 1e4 * b) for name, (a, b) in adapter.factors.items()}, scaling=3e38)


def test_the_broken_policy_and_prompt_are_named(bank: Bank, backbone: Backbone) -> None:
    policies = [random_adapter(backbone, 1), overflowing(random_adapter(backbone, 2))]
    good, bad = ((5, 6), (1.0, 0.0)), ((7, 8), (0.0, 1.0))
    rows = [(Group(prompt, ((9,), (10, 11))), point) for prompt, point in (good, bad)]
    with bank.mounted(policies):
        text = backbone.tokenizer.decode([7, 8])
        with pytest.raises(SipoError) as error:
            score_rows(bank, rows)
    assert f"under the adapters at (0, 1), of a response to the prompt that ends {text!r}, is " in str(error.value)


MIXTURES = [at_mod((0.5, 0.5)), at_soup((0.5, 0.5))]


@pytest.mark.parametrize("decoding", [Decoding(temperature=0.0), Decoding(), Decoding(top_k=4), Decoding(top_p=0.9)])
@pytest.mark.parametrize("mixture", MIXTURES, ids=["mod", "soup"])
def test_a_policy_that_overflows_writes_nothing(
    bank: Bank, backbone: Backbone, decoding: Decoding, mixture: Mixture
) -> None:
    policies = [random_adapter(backbone, 1), overflowing(random_adapter(backbone, 2))]
    with (
        bank.mounted(policies),
        pytest.raises(SipoError, match="no token can be chosen after 0 tokens .* are not finite"),
    ):
        decode(bank, [Request((5, 6), mixture), Request((5, 7), mixture)], decoding, 4, {1})


@pytest.mark.parametrize("decoding", [Decoding(temperature=0.0), Decoding(), Decoding(top_k=4), Decoding(top_p=0.9)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_is_broken_by_any_number_that_is_none(decoding: Decoding, value: float) -> None:
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    scores[:, 7] = -math.inf  # a token that is ruled out is no fault
    whole = next_tokens(scores, torch.full((4,), 0.5, dtype=torch.float64), decoding)
    assert (whole != BROKEN).all()
    scores[2, 31] = value
    found = next_tokens(scores, torch.full((4,), 0.5, dtype=torch.float64), decoding)
    assert found[2] == BROKEN and torch.equal(found[[0, 1, 3]], whole[[0, 1, 3]])
    scores[:] = -math.inf
    assert (next_tokens(scores, torch.zeros(4, dtype=torch.float64), decoding) == BROKEN).all()


def test_an_engine_s_broken_row_stops_it() -> None:
    group = Draft(Request((5, 6), at_mod((0.5, 0.5))), 4, {1})
    logits = torch.zeros(2, 9)
    logits[1, 3] = math.nan
    with pytest.raises(SipoError, match="logits are not finite"):
        settle(logits, [(i, row, 0) for i, row in enumerate(rows_of(group))], Decoding())


def test_a_reward_model_that_overflows_names_the_item(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path / "reward"
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(model_folder)
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    from sipo.message import Message

    objective = Objective(name="a", better="b", reward={"model": str(folder), "dtype": "float32"})  # type: ignore[arg-type]
    with pytest.raises(
        SipoError, match=r"reward `model .*`: the score of .* is -?(inf|nan), no finite number; set its dtype"
    ):
        score_responses(
            [objective], [Item((Message("user", "why?"),), "warm")], Execution(device="cpu"), cache=tmp_path / "cache"
        )


def test_a_merged_export_that_overflows_is_not_written(model_folder: Path, tmp_path: Path, backbone: Backbone) -> None:
    adapter = replace(random_adapter(backbone, 1), scaling=1e6)
    half, full = (load_backbone(Model(path=str(model_folder), dtype=dtype), "cpu") for dtype in ("float16", "float32"))
    before = {name: weight.clone() for name, weight in half.model.state_dict().items()}
    with pytest.raises(SipoError, match="the merged .* is not finite in torch.float16; set model.dtype"):
        save_merged(half, {0}, adapter, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert all(torch.equal(weight, before[name]) for name, weight in half.model.state_dict().items())
    save_merged(full, {0}, adapter, tmp_path)


def test_a_model_that_overflows_in_its_dtype_is_told_so(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    large = {name: 3000 * each if "mlp" in name else each for name, each in weights.items()}
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    Bank(load_backbone(Model(path=str(folder), dtype="float32"), "cpu"))
    with pytest.raises(SipoError, match="not finite in float16; set model.dtype to float32"):
        Bank(load_backbone(Model(path=str(folder), dtype="float16"), "cpu"))
