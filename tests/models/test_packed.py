"""Packed weights against the layers as torch has them."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sipo.bank.whole import parameters_of, wearing
from sipo.models import packed
from sipo.models.packed import PackedLinear, pack

CONFIG = LlamaConfig(vocab_size=300, hidden_size=256, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4)
IDS = torch.randint(2, 300, (3, 7), generator=torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def model() -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(CONFIG).eval().requires_grad_(False)
    pack(made)
    return made


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=IDS).logits


def plainly(model: PreTrainedModel) -> Tensor:
    """Where gradients are on, each layer is torch's own."""
    with torch.enable_grad():
        return model(input_ids=IDS).logits


def layer_of(model: PreTrainedModel) -> PackedLinear:
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, PackedLinear)
    return layer


def test_it_computes_what_torch_s_layers_do(model: PreTrainedModel) -> None:
    torch.testing.assert_close(logits(model), plainly(model), **CLOSE)
    assert layer_of(model)._packed is not None


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
def test_in_bfloat16_the_numbers_are_near(model: PreTrainedModel) -> None:
    pack(model.to(torch.bfloat16))
    difference = (logits(model) - plainly(model)).float()
    assert difference.norm() <= 0.01 * plainly(model).float().norm()


@pytest.mark.parametrize("shape", [(1,), (2, 1), (3, 5), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(256, 384, bias).requires_grad_(False)
    model = nn.Sequential(layer)
    model.dtype, model.device = torch.float32, torch.device("cpu")  # type: ignore[assignment]
    pack(model)  # type: ignore[arg-type]
    rows = torch.randn(*shape, 256).transpose(0, -2) if len(shape) > 1 else torch.randn(*shape, 256)
    with torch.no_grad():
        torch.testing.assert_close(layer(rows), linear(rows, layer.weight, layer.bias), **CLOSE)


def test_a_weight_that_is_lent_is_the_one_that_counts(model: PreTrainedModel) -> None:
    before = logits(model)
    lent = {name: weight * 1.1 for name, weight in parameters_of(model).items()}
    with wearing(model, lent):
        torch.testing.assert_close(logits(model), plainly(model))
        assert not torch.allclose(logits(model), before, **CLOSE)
    torch.testing.assert_close(logits(model), before)


def changed_in_place(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        layer_of(model).weight.mul_(2)
    return model


def loaded(model: PreTrainedModel) -> PreTrainedModel:
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    return model


def moved(model: PreTrainedModel) -> PreTrainedModel:
    for weight in model.parameters():
        weight.data = 2 * weight.data
    return model


def copied(model: PreTrainedModel) -> PreTrainedModel:
    other = copy.deepcopy(model)
    layer_of(other).weight.data *= 2
    return other


def pickled(model: PreTrainedModel) -> PreTrainedModel:
    other = pickle.loads(pickle.dumps(model))
    layer_of(other).weight.data *= 2
    return other


@pytest.mark.parametrize("change", [changed_in_place, loaded, moved, copied, pickled])
def test_a_weight_that_changes_is_read_anew(
    model: PreTrainedModel, change: Callable[[PreTrainedModel], PreTrainedModel]
) -> None:
    before = logits(model)
    other = change(model)
    torch.testing.assert_close(logits(other), plainly(other), **CLOSE)
    assert not torch.allclose(logits(other), before, **CLOSE)


def test_in_another_dtype_it_goes_on(model: PreTrainedModel) -> None:
    logits(model)
    for dtype in (torch.float64, torch.float16, torch.float32):
        torch.testing.assert_close(logits(model.to(dtype)), plainly(model), rtol=1e-2, atol=1e-2)


def test_a_gradient_finds_its_way(model: PreTrainedModel) -> None:
    logits(model)
    weight = layer_of(model).weight.requires_grad_()
    model(input_ids=IDS).logits.square().sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_what_is_saved_is_an_ordinary_model(model: PreTrainedModel, tmp_path: Path) -> None:
    logits(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(LlamaForCausalLM.from_pretrained(tmp_path)), plainly(model), **CLOSE)


def test_large_models_and_other_dtypes_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, largest in ((LlamaForCausalLM(CONFIG), 1000), (LlamaForCausalLM(CONFIG).half(), packed.LARGEST)):
        monkeypatch.setattr(packed, "LARGEST", largest)
        pack(model)
        assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
