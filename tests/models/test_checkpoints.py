"""Checkpoints that are not what they seem: wherever a model is loaded, refused in one line."""

import ast
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import sipo
from sipo.bank import Bank
from sipo.errors import SipoError
from sipo.estimate.table import _judge_bytes
from sipo.finite import infinite_tensor
from sipo.models.load import load_backbone
from sipo.rewards.classifier import load_classifier
from sipo.rewards.heads import with_heads
from sipo.rewards.kinds.model import RewardModel
from sipo.settings import Model

Weights = dict[str, Tensor]
LAYER = "model.layers.0.self_attn.q_proj"
SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): weight for name, weight in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def plus(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: torch.ones(shape)}


def spoilt(name: str, value: float) -> Callable[[Weights], Weights]:
    def edit(weights: Weights) -> Weights:
        weights[name].view(-1)[-1] = value
        return weights

    return edit


def untouched(weights: Weights) -> Weights:
    return weights


def as_integers(weights: Weights) -> Weights:
    return {name: weight.to(torch.int8) if "q_proj" in name else weight for name, weight in weights.items()}


@pytest.fixture(scope="module")
def tokenizer_only(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    for file in model_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def checkpoint(tokenizer_only: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder with a tiny model, its weights edited and its config.json patched."""

    def make(
        edit: Callable[[Weights], Weights] = untouched,
        kind: Any = LlamaForCausalLM,
        *,
        tied: bool = False,
        patch: dict[str, Any] | None = None,
        **shape: Any,
    ) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tokenizer_only, folder)
        torch.manual_seed(0)
        config = {**SHAPE, "initializer_range": 0.3, "tie_word_embeddings": tied, "pad_token_id": 1, **shape}
        configured = Qwen2Config if kind is Qwen2ForCausalLM else LlamaConfig
        kind(configured(**config)).save_pretrained(folder)
        weights = {name: each.contiguous() for name, each in edit(load_file(folder / "model.safetensors")).items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, **(patch or {})}))
        return folder

    return make


DAMAGE: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "compiled": (prefixed("_orig_mod."), r"no weights for lm_head.weight, .* and 18 more; it has _orig_mod.*wraps"),
    "data parallel": (prefixed("module."), "saved with what wraps the model"),
    "compiled within": (renamed("model.", "model._orig_mod."), "saved with what wraps the model"),
    "sharded": (renamed("layers.1.", "layers.1._fsdp_wrapped_module."), "saved with what wraps the model"),
    "adapted": (prefixed("base_model.model."), "saved with what wraps the model"),
    "unmerged": (renamed("q_proj.", "q_proj.base_layer."), "never merged; save what PEFT's merge_and_unload gives"),
    "unmerged head": (renamed("lm_head.", "lm_head.original_module."), "never merged"),
    "lora beside it": (plus(f"{LAYER}.lora_A.default.weight", 2, 32), "never merged"),
    "no head": (without("lm_head"), "no weights for lm_head.weight; is it whole"),
    "no embedding": (without("embed_tokens"), "no weights for model.embed_tokens.weight"),
    "a layer less": (without("layers.1."), "no weights for model.layers.1.* and 6 more"),
    "a norm less": (without("model.norm"), "no weights for model.norm.weight"),
    "other names": (renamed("self_attn", "attention"), "no weights for .* it has model.layers.0.attention"),
    "gptq": (renamed("q_proj.weight", "q_proj.qweight"), "is quantised; take the model in 16 or 32 bits"),
    "bitsandbytes": (plus(f"{LAYER}.SCB", 32), "is quantised"),
    "fp8": (plus(f"{LAYER}.weight_scale_inv", 1, 1), "is quantised"),
    "integers": (as_integers, "is quantised .*stored as I8"),
    "a bias more": (plus(f"{LAYER}.bias", 32), f"has {LAYER}.bias, which its config.json has no place for"),
    "a biased head": (plus("lm_head.bias", 300), "has lm_head.bias"),
    "learned positions": (plus("model.embed_positions.weight", 64, 32), "has model.embed_positions.weight"),
    "shape": (lambda w: {**w, f"{LAYER}.weight": torch.ones(16, 32)}, r"q_proj.weight has the shape \(16, 32\)"),
    "vocabulary": (lambda w: {**w, "lm_head.weight": torch.ones(301, 32)}, r"\(301, 32\).*asks for \(300, 32\)"),
    "nan": (spoilt(f"{LAYER}.weight", torch.nan), f"{LAYER}.weight holds NaN .* in float32; the checkpoint is damaged"),
    "infinity": (spoilt("model.norm.weight", -torch.inf), "model.norm.weight holds NaN or infinite"),
}  # fmt: skip


def refused(folder: Path, message: str, dtype: str = "float32") -> None:
    with pytest.raises(SipoError, match=message) as error:
        load_backbone(Model(path=str(folder), dtype=dtype), "cpu")  # type: ignore[arg-type]
    assert str(error.value).startswith(f"model {folder}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_backbone_is_refused(checkpoint: Callable[..., Path], damage: str) -> None:
    edit, message = DAMAGE[damage]
    refused(checkpoint(edit), message)


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGE if name not in ("no head", "unmerged head", "no embedding")]
)
def test_a_damaged_backbone_with_a_tied_head_is_refused(checkpoint: Callable[..., Path], damage: str) -> None:
    refused(checkpoint(DAMAGE[damage][0], tied=True), "checkpoint|quantised|damaged")


def test_a_configuration_of_another_model_is_refused(checkpoint: Callable[..., Path]) -> None:
    refused(checkpoint(num_hidden_layers=3, patch={"num_hidden_layers": 2}), "has model.layers.2.* of two models")
    refused(checkpoint(patch={"num_hidden_layers": 3}), "no weights for model.layers.2")
    refused(checkpoint(patch={"hidden_size": 64}), r"asks for \(300, 64\)")
    refused(checkpoint(patch={"num_key_value_heads": 4}), "shape")
    refused(checkpoint(patch={"attention_bias": True}), r"no weights for .*\.bias")
    refused(checkpoint(kind=Qwen2ForCausalLM, patch={"model_type": "llama"}), r"has .*\.bias")
    refused(checkpoint(patch={"tie_word_embeddings": True}), "head and embedding differ")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4", "one to come"])
def test_a_quantised_checkpoint_is_refused(checkpoint: Callable[..., Path], method: str) -> None:
    refused(checkpoint(patch={"quantization_config": {"quant_method": method, "bits": 4}}), rf"is quantised \({method}")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [LlamaForSequenceClassification, LlamaModel])
def test_another_kind_of_model_is_no_backbone(checkpoint: Callable[..., Path], kind: Any, tied: bool) -> None:
    folder = checkpoint(kind=kind, tied=tied)
    refused(folder, f"is no causal language model: its config.json says {kind.__name__}")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "architectures": None}))
    if tied:  # then all that a causal model needs is there
        load_backbone(Model(path=str(folder)), "cpu")
    else:
        refused(folder, "no weights for lm_head.weight")


def test_what_overflows_in_a_dtype_is_refused_there(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint(spoilt("model.norm.weight", 1e5))
    load_backbone(Model(path=str(folder), dtype="bfloat16"), "cpu")
    refused(folder, "in float16; .*set the dtype to bfloat16 or float32", dtype="float16")


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_checkpoint_is_what_transformers_loads(checkpoint: Callable[..., Path], tied: bool) -> None:
    folder = checkpoint(tied=tied)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    torch.testing.assert_close(
        load_backbone(Model(path=str(folder), dtype="float32"), "cpu").model.state_dict(), expected
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", False),
        ("v_head.summary.weight", True),
        ("visual.blocks.0.weight", True),
        ("model.mtp_layers.0.weight", True),
    ],
)
def test_what_stands_beside_the_model_is_told(
    checkpoint: Callable[..., Path], caplog: pytest.LogCaptureFixture, name: str, told: bool
) -> None:
    folder = checkpoint(plus(name, 4))
    with caplog.at_level(logging.WARNING, "sipo"):
        load_backbone(Model(path=str(folder)), "cpu")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("sipo")] == (
        [f"model {folder}: is loaded without {name}, which is not its own"] if told else []
    )


# Reward models


@pytest.mark.parametrize("damage", [name for name in DAMAGE if "head" not in name and name != "vocabulary"])
def test_a_damaged_reward_model_is_refused(checkpoint: Callable[..., Path], damage: str) -> None:
    folder = checkpoint(DAMAGE[damage][0], LlamaForSequenceClassification)
    with pytest.raises(SipoError, match="checkpoint|quantised|damaged"):
        load_classifier(RewardModel(model=str(folder)), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("damage", [name for name in DAMAGE if "head" not in name and name != "vocabulary"])
@pytest.mark.parametrize("kind", [LlamaForCausalLM, LlamaForSequenceClassification])
def test_only_the_head_of_a_reward_training_may_be_new(checkpoint: Callable[..., Path], kind: Any, damage: str) -> None:
    with pytest.raises(SipoError, match="checkpoint|quantised|damaged"):
        with_heads(Model(path=str(checkpoint(DAMAGE[damage][0], kind))), ["a", "b"], pad=0)


def test_a_head_is_new_where_there_is_none_of_its_size(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for kind in (LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel):
        folder = checkpoint(kind=kind)
        network, new = with_heads(Model(path=str(folder)), ["a", "b", "c"], pad=0)
        assert new == ["score"] and network.config.id2label == {0: "a", 1: "b", 2: "c"}
        kept = load_file(folder / "model.safetensors")
        for name, weight in network.model.state_dict().items():
            torch.testing.assert_close(weight, kept.get(f"model.{name}", kept.get(name)))
    config = BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    assert with_heads(Model(path=str(tmp_path / "bert")), ["a"], pad=0)[1] == ["bert.pooler.dense", "classifier"]


def test_any_kind_of_reward_model_has_a_size(tmp_path: Path) -> None:
    config = DebertaV2Config(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = DebertaV2ForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    size = _judge_bytes(RewardModel(model=str(tmp_path), dtype="float32"))
    assert size == 4 * sum(each.numel() for each in model.parameters())


# Code of the checkpoint

MARK = "from pathlib import Path\n(Path(__file__).resolve().parent / 'ran').touch()\nraise ValueError('ran')\n"


def bringing_code(folder: Path, model: bool) -> Path:
    (folder / "own.py").write_text(MARK)
    if model:
        told = json.loads((folder / "config.json").read_text())
        code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
        (folder / "config.json").write_text(json.dumps({**told, "model_type": "own", "auto_map": code}))
    else:
        told = json.loads((folder / "tokenizer_config.json").read_text())
        code = {"AutoTokenizer": ["own.OwnTokenizer", None]}
        told.update(tokenizer_class="OwnTokenizer", auto_map=code)
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("of_model", [True, False])
def test_code_of_a_checkpoint_runs_only_where_the_model_is_named(
    checkpoint: Callable[..., Path], of_model: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("nobody is asked")

    monkeypatch.setattr("builtins.input", asked)
    folder = bringing_code(checkpoint(), of_model)
    refused(folder, "brings code of its own, which is not run; .*model.trust_remote_code: true")
    if of_model:
        with pytest.raises(SipoError, match="trust_remote_code: true"):
            load_classifier(RewardModel(model=str(folder)), torch.device("cpu"), torch.float32)
        with pytest.raises(SipoError, match="trust_remote_code: true"):
            with_heads(Model(path=str(folder)), ["a"], pad=0)
    with pytest.raises(SipoError, match=r"cannot be loaded \(ran\)"):
        load_backbone(Model(path=str(folder), trust_remote_code=True), "cpu")


def test_all_loaders_are_one() -> None:
    """Nothing else in the package calls `from_pretrained`, or makes a model of a configuration that may bring code."""
    found = set()
    source = Path(sipo.__file__).parent
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "from_pretrained":
                found.add(str(file.relative_to(source)))
            if node.func.attr == "from_config":
                assert any(each.arg == "trust_remote_code" for each in node.keywords), file
    assert found == {"models/pretrained.py"}


def test_infinite_numbers_are_found_wherever_they_are() -> None:
    whole = torch.linspace(-3, 3, 100)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert infinite_tensor([("a", whole.to(dtype)), ("none", torch.zeros(0, dtype=dtype))]) is None
        assert infinite_tensor([("most", torch.full((3,), torch.finfo(dtype).max, dtype=dtype).neg())]) is None
        for value in (torch.nan, torch.inf, -torch.inf):
            for place in (0, 50, 99):
                broken = whole.to(dtype, copy=True)
                broken[place] = value
                assert infinite_tensor([("a", whole), ("b", broken), ("c", broken)]) == "b"
    assert infinite_tensor([("numbers", torch.arange(3))]) is None


@pytest.mark.parametrize("text", ['{"eos_token_id": [', "", "[]", "null", "\x00" * 40])
def test_a_torn_generation_configuration_is_refused(text: str, model_folder: Path, tmp_path: Path) -> None:
    """Loading passes it over, and with it the tokens at which answers end."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(SipoError, match="generation_config.json cannot be read"):
        load_backbone(Model(path=str(folder)), "cpu")


@pytest.mark.parametrize("left", [0.5, 0.75, 0.9])
def test_a_file_that_ends_in_zeros_is_told(
    left: float, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    whole = (folder / "model.safetensors").read_bytes()
    kept = whole[: int(left * len(whole))]
    (folder / "model.safetensors").write_bytes(kept + bytes(len(whole) - len(kept)))
    backbone = load_backbone(Model(path=str(folder), dtype="float32"), "cpu")
    assert any("nothing but zeros" in record.message for record in caplog.records)
    with pytest.raises(SipoError, match="last hidden state is nothing but zeros"):
        Bank(backbone)
