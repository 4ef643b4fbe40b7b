"""A quantised backbone against its twin: an ordinary model whose weights are what the quantised ones stand for."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from sipo.bank import Adapter, Bank, new_adapter, soup
from sipo.check import check
from sipo.config.file import parse_config
from sipo.decoding import Request, at_mod, at_soup, base, decode
from sipo.errors import SipoError
from sipo.finished.export import export
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group
from sipo.logprobs.score import score_rows
from sipo.models import quantisation
from sipo.models.footprint import shape
from sipo.models.load import Backbone, identify, load_backbone
from sipo.models.quantisation import check_quantise, dense, is_quantised, options_as_code, options_of, parts
from sipo.models.shapes import outline
from sipo.settings import Decoding, Lora, Model, Training
from sipo.settings.model import Quantise
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, train

ERRORS = {"4bit": (0.05, 0.12), "8bit": (0.001, 0.01)}
"""Of a weight, relative, from and to: normal numbers in NF4 are off by some 9 %."""
KINDS: tuple[Quantise, ...] = ("4bit", "8bit")
GROUPS = [
    Group((20, 21, 22, 23, 30, 31), ((40, 41, 42, 43, 44), (50, 51))),
    Group((7, 8, 9), ((60, 61, 62, 63, 64, 65, 66), (70,), (71, 72, 73))),
]


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole blocks."""
    config, to = AutoConfig.from_pretrained(model_folder), tmp_path_factory.mktemp("quantised")
    config.update({"hidden_size": 64, "intermediate_size": 192, "head_dim": 16})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(to)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(to)
    return to


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(Model(path=str(folder), dtype="float32"), "cpu")


@pytest.fixture(scope="module")
def policies(backbone: Backbone) -> list[Adapter]:
    adapters = []
    for seed in (1, 2, 3):
        fresh, random = new_adapter(backbone.model, Lora(r=3, alpha=6), seed), torch.Generator().manual_seed(seed)
        factors = {n: (a, 0.3 * torch.randn(b.shape, generator=random)) for n, (a, b) in fresh.factors.items()}
        adapters.append(Adapter(factors, fresh.scaling))
    return adapters


@pytest.fixture(scope="module", params=KINDS)
def quantised(request: pytest.FixtureRequest, folder: Path) -> Backbone:
    return load_backbone(Model(path=str(folder), dtype="float32", quantise=request.param), "cpu")


@pytest.fixture(scope="module")
def twin(quantised: Backbone, backbone: Backbone) -> Backbone:
    model = LlamaForCausalLM(copy.deepcopy(backbone.model.config)).eval().requires_grad_(False)
    layers = dict(quantised.model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            layer = layers[name.rpartition(".")[0]]
            parameter.copy_(dense(layer) if name.endswith("weight") else layer.bias)
    return Backbone(model, backbone.tokenizer, backbone.source)


def linear_layers(backbone: Backbone) -> dict[str, nn.Linear]:
    return {name: each for name, each in backbone.model.named_modules() if isinstance(each, nn.Linear)}


def test_linear_layers_are_rounded_and_the_head_is_not(quantised: Backbone, backbone: Backbone) -> None:
    whole = linear_layers(backbone)
    for name, layer in linear_layers(quantised).items():
        assert is_quantised(layer.weight) is (name != "lm_head")
        error = float((dense(layer) - whole[name].weight).norm() / whole[name].weight.norm())
        least, most = (0, 0) if name == "lm_head" else ERRORS[cast(Quantise, quantised.settings.quantise)]
        assert least <= error <= most, name
    assert torch.equal(quantised.model.get_input_embeddings().weight, backbone.model.get_input_embeddings().weight)


def test_all_that_the_bank_computes_is_the_twin_s(quantised: Backbone, twin: Backbone, policies: list[Adapter]) -> None:
    found: list[Any] = []
    for backbone in (quantised, twin):
        points = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.4, 0.5, 0.1))
        with Bank(backbone).mounted(policies) as bank:
            assert bank.routes.packs and bank.routes.mixes
            scores = [value for row in score_rows(bank, [(g, p) for g in GROUPS for p in points]) for value in row]
            mixed = [value for g in GROUPS for value in mixture_logprobs(bank, g, [at_mod((0.3, 0.6, 0.1))])[0]]
            asked = [
                Request(g.prompt, m)
                for g in GROUPS
                for m in (base(3), at_soup((0.4, 0.5, 0.1)), at_mod((0.3, 0.6, 0.1)))
            ]
            texts = decode(bank, asked, Decoding(), 8, ())
        with Bank(backbone).mounted([soup(policies, (0.4, 0.5, 0.1))]) as bank:
            alone = score_rows(bank, [(GROUPS[0], (1.0,))])[0]
        assert alone == pytest.approx(scores[4:6], abs=1e-3)
        found.append((scores, mixed, texts))
    (scores, mixed, texts), (theirs, mixture, written) = found
    assert scores == pytest.approx(theirs, abs=2e-3) and mixed == pytest.approx(mixture, abs=2e-3)
    assert texts == written
    assert scores[0] != pytest.approx(scores[2], abs=1e-2), "a policy is another model than the reference"


@pytest.mark.parametrize("recomputes", [False, True])
def test_training_on_it_is_training_on_the_twin(
    quantised: Backbone, twin: Backbone, policies: list[Adapter], recomputes: bool
) -> None:
    results = []
    for backbone in (quantised, twin):
        bank = Bank(backbone, recomputes=recomputes)
        with bank.mounted([]):
            references = [score_rows(bank, [(group, ())])[0] for group in GROUPS]
        rows = [Example(g, tuple(r), ((0, 1, 1.0),)) for g, r in zip(GROUPS, references, strict=True)]
        settings = Training(epochs=4, batch_size=2)
        results.append(train(bank, policies[0], Examples(rows), Recipe(settings, 1e-3, 0), Loss(0.5)))
    mine, theirs = results
    for record, other in zip(mine.history, theirs.history, strict=True):
        assert record == pytest.approx(other, rel=1e-3, abs=1e-4)
    begun, here, there = (
        torch.cat([parameter.detach().flatten() for parameter in each.parameters])
        for each in (policies[0], mine.policy, theirs.policy)
    )
    assert float((here - there).norm()) < 0.02 * float((there - begun).norm())


def test_a_row_is_what_it_is_whatever_stands_beside_it(quantised: Backbone) -> None:
    ids = torch.tensor([[20, 21, 22, 23], [7, 8, 9, 60], [30, 31, 32, 33]])
    with torch.no_grad():
        together, alone = quantised.model(ids).logits[1], quantised.model(ids[1:2]).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_bytes_of_a_plan_are_those_that_are_held(quantised: Backbone, backbone: Backbone) -> None:
    of = shape(outline(backbone.model.config, torch.float32), torch.float32, quantised.settings.quantise)
    tensors = [*quantised.model.parameters()]
    held = sum(part.nbytes for each in tensors for part in parts(each))
    for each in tensors:
        if hasattr(each, "quant_state"):
            held += each.quant_state.absmax.nbytes
    assert of.weights == pytest.approx(held, rel=0.05)
    assert of.opened == 4 * max(
        layer.in_features * layer.out_features for name, layer in linear_layers(backbone).items() if name != "lm_head"
    )


def test_rows_that_do_not_end_with_a_block_are_refused_in_4_bits(model_folder: Path) -> None:
    """bitsandbytes' kernel for processors reads them wrongly: half of what it gives is noise."""
    with pytest.raises(SipoError, match="multiple of 64 wide; model.layers.0.self_attn.q_proj reads 32; take 8bit"):
        load_backbone(Model(path=str(model_folder), quantise="4bit"), "cpu")


@pytest.mark.parametrize(
    ("family", "quantise", "way"),
    [
        ({"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 2}, "8bit", "torchao does not take .*take 4bit"),
        (
            {"model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
            "4bit",
            "bitsandbytes does not take",
        ),
    ],
)
def test_a_model_of_which_nothing_is_quantised_is_refused_and_planned_as_it_is(
    family: dict[str, Any], quantise: Quantise, way: str, model_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**family, vocab_size=len(tokenizer)))
    assert shape(model, quantise=quantise).weights == shape(model).weights
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SipoError, match=f"{quantise} leaves all layers .*{way}"):
        load_backbone(Model(path=str(tmp_path), quantise=quantise), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_for_others_asks_for_the_same(kind: Quantise) -> None:
    imports, how = options_as_code(kind)
    made = dict[str, Any]()
    exec("\n".join([*imports, f"given = dict({how.removeprefix(', ')})"]), made)
    ours = options_of(kind, torch.bfloat16, torch.device("cpu"))["quantization_config"]
    assert made["given"]["quantization_config"].to_dict() == ours.to_dict()


def test_it_is_another_model(model_folder: Path) -> None:
    settings = Model(path=str(model_folder))
    assert len({identify(settings.model_copy(update={"quantise": each})) for each in (None, *KINDS)}) == 3


def test_a_run_on_it_is_checked(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings["model"] |= {"quantise": "8bit"}
    check(parse_config(settings, "here"), gpu=24)
    assert "parameters in 8bit, the rest in float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": "full"}, "model.quantise: with policies: full"),
        ({"execution": {"engine": "vllm"}}, "model.quantise: vllm would"),
        ({"quantise": "3bit"}, "model.quantise"),
    ],
)
def test_what_cannot_stand_on_it_is_refused(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    settings["model"] |= {"quantise": change.pop("quantise", "4bit")}
    settings |= change
    settings.pop("lora", None)
    with pytest.raises(SipoError, match=message) as refused:
        parse_config(settings, "here")
    assert "\n" not in str(refused.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    check_quantise(None)
    with pytest.raises(SipoError, match="model.quantise: 8bit needs torchao; `.*pip install"):
        check_quantise("8bit")


def test_no_adapter_is_merged_into_it(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["model"] |= {"quantise": "8bit"}
    run = SimpleNamespace(config=parse_config(settings, "here"), path=tmp_path)
    aligned = SimpleNamespace(mixture=at_soup((0.5, 0.5)), only_asks=False)
    model: Any = SimpleNamespace(run=run, aligned=aligned, method="soups")
    with pytest.raises(SipoError, match=r"in 8bit \(model.quantise\), into which no adapter can be merged"):
        export(model, tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()
