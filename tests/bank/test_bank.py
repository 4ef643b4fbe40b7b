"""The bank against PEFT and against weights merged by hand, in float32."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sipo.bank import Adapter, Bank, cut, load_adapter, new_adapter, save_adapter, soup
from sipo.bank.layout import PADDING, Layout
from sipo.errors import SipoError
from sipo.models.load import Backbone
from sipo.settings import Lora

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
IDS = torch.randint(2, 300, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def uneven(policies: list[Adapter]) -> list[Adapter]:
    """Adapters of different ranks and different scalings."""
    return [replace(policy, scaling=s) for policy, s in zip(policies, (2.0, 0.5, 1.25), strict=True)]


@torch.no_grad()
def bank_logits(bank: Bank, points: Sequence[Sequence[float]], ids: Tensor = IDS) -> Tensor:
    return bank.head(bank.hidden_states(torch.tensor(points), input_ids=ids, use_cache=False).last_hidden_state)


@torch.no_grad()
def plain_logits(model: PreTrainedModel | PeftModel, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids).logits


def merged(backbone: Backbone, adapters: Sequence[Adapter], weights: Sequence[float]) -> PreTrainedModel:
    """W + sum_i w_i s_i B_i A_i in every layer, written out."""
    model = deepcopy(backbone.model)
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, (a, b) in adapter.factors.items():
            model.get_submodule(name).weight.data += weight * adapter.scaling * b @ a
    return model


def as_peft(adapter: Adapter, model_folder: Path, folder: Path) -> PeftModel:
    save_adapter(adapter, folder, str(model_folder))
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).eval()


def update(adapter: Adapter) -> dict[str, Tensor]:
    return {name: adapter.scaling * b @ a for name, (a, b) in adapter.factors.items()}


@pytest.mark.parametrize("i", range(3))
def test_a_corner_is_peft_s_model_of_that_adapter(
    bank: Bank, policies: list[Adapter], peft_models: list[PeftModel], i: int
) -> None:
    corner = [float(j == i) for j in range(3)]
    with bank.mounted(policies):
        actual = bank_logits(bank, [corner] * 3)
    expected = plain_logits(peft_models[i])
    torch.testing.assert_close(actual, expected, **CLOSE)
    assert (expected - plain_logits(bank.model)).abs().max() > 0.1, "the adapter must matter here"


@pytest.mark.parametrize("i", range(3))
def test_peft_reads_ranks_and_scalings(
    bank: Bank, uneven: list[Adapter], model_folder: Path, tmp_path: Path, i: int
) -> None:
    with bank.mounted(uneven):
        actual = bank_logits(bank, [[float(j == i) for j in range(3)]] * 3)
    torch.testing.assert_close(actual, plain_logits(as_peft(uneven[i], model_folder, tmp_path)), **CLOSE)


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (0.6, 0.4, 0.0), (1.0, 0.0, 0.0), (-0.5, 0.25, 2.0)])
def test_a_point_is_the_soup_merged_by_hand_and_as_peft(
    bank: Bank,
    backbone: Backbone,
    uneven: list[Adapter],
    model_folder: Path,
    tmp_path: Path,
    weights: tuple[float, ...],
) -> None:
    with bank.mounted(uneven):
        at_point = bank_logits(bank, [weights] * 3)
    cooked = soup(uneven, weights)
    with bank.mounted([cooked]):
        mounted_soup = bank_logits(bank, [[1.0]] * 3)
    torch.testing.assert_close(at_point, plain_logits(merged(backbone, uneven, weights)), **CLOSE)
    torch.testing.assert_close(at_point, mounted_soup, **CLOSE)
    torch.testing.assert_close(at_point, plain_logits(as_peft(cooked, model_folder, tmp_path)), **CLOSE)


def test_peft_s_exact_combination_agrees(
    bank: Bank, policies: list[Adapter], model_folder: Path, tmp_path: Path
) -> None:
    weights = [0.2, 0.3, 0.5]
    model = as_peft(policies[0], model_folder, tmp_path / "0")
    for i in (1, 2):
        save_adapter(policies[i], tmp_path / str(i), str(model_folder))
        model.load_adapter(tmp_path / str(i), adapter_name=str(i))
    model.add_weighted_adapter(["default", "1", "2"], weights, "soup", combination_type="cat")
    model.set_adapter("soup")
    with bank.mounted(policies):
        torch.testing.assert_close(bank_logits(bank, [weights] * 3), plain_logits(model), **CLOSE)


@torch.no_grad()
def test_masks_of_one_thread_are_none_of_another(backbone: Backbone) -> None:
    """Each of two runs that are served has a model and a thread; and who asks a model of their own sees no layout."""

    def states(layout: Layout, ids: Tensor) -> Tensor:
        with layout.imposed():
            return backbone.model(input_ids=ids, **layout.inputs(ids.shape[1])).logits

    segments = torch.tensor([[PADDING, PADDING, 0, 0, 0], [0, 0, 1, 1, 2]])
    packed = Layout(torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 2]]), segments)
    longer, ids = Layout.even(3, 9, torch.device("cpu")), IDS[:2, :5]
    expected = states(packed, ids), states(longer, IDS), backbone.model(input_ids=IDS).logits
    with ThreadPoolExecutor(1) as other, packed.imposed():
        beside = other.submit(states, longer, IDS).result()
        alone = other.submit(lambda: plain_logits(backbone.model)).result()
        mine = backbone.model(input_ids=ids, **packed.inputs(5)).logits
    for actual, alike in zip((mine, beside, alone), expected, strict=True):
        torch.testing.assert_close(actual, alike, **CLOSE)


def test_zero_is_the_backbone(bank: Bank, policies: list[Adapter]) -> None:
    expected = plain_logits(bank.model)
    with bank.mounted(policies):
        assert torch.equal(bank_logits(bank, [[0.0] * 3] * 3), expected)
        mixed = bank_logits(bank, [[0.0] * 3, [1.0, 0.0, 0.0], [0.0] * 3])
    torch.testing.assert_close(mixed[[0, 2]], expected[[0, 2]], **CLOSE)
    with bank.mounted([]):
        assert torch.equal(bank_logits(bank, [[]] * 3), expected)


def test_rows_at_different_points_do_not_meet(bank: Bank, uneven: list[Adapter]) -> None:
    points = [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.5]]
    with bank.mounted(uneven):
        together = bank_logits(bank, points)
        for row, point in enumerate(points):
            torch.testing.assert_close(together[[row]], bank_logits(bank, [point], IDS[[row]]), **CLOSE)


def test_a_new_adapter_starts_as_the_backbone(bank: Bank, backbone: Backbone) -> None:
    adapter = new_adapter(backbone.model, Lora(r=4, alpha=8), seed=5)
    assert (adapter.rank, adapter.scaling) == (4, 2.0)
    with bank.mounted([adapter]):
        torch.testing.assert_close(bank_logits(bank, [[1.0]] * 3), plain_logits(bank.model), **CLOSE)
    fresh = get_peft_model(
        deepcopy(backbone.model), LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    )
    theirs = {name: a for name, a in fresh.state_dict().items() if "lora_A" in name}
    assert len(theirs) == len(adapter.factors)
    for name, (a, _) in adapter.factors.items():
        drawn = theirs[f"base_model.model.{name}.lora_A.default.weight"]
        assert a.shape == drawn.shape
        bound = a.shape[1] ** -0.5
        assert a.abs().max() <= bound and drawn.abs().max() <= bound and a.std() > 0.4 * bound
    assert adapter.identity == new_adapter(backbone.model, Lora(r=4, alpha=8), seed=5).identity
    assert adapter.identity != new_adapter(backbone.model, Lora(r=4, alpha=8), seed=6).identity


def test_a_folder_gives_back_the_adapter(uneven: list[Adapter], tmp_path: Path) -> None:
    for i, adapter in enumerate(uneven):
        save_adapter(adapter, tmp_path / str(i), "base")
        back = load_adapter(tmp_path / str(i))
        assert back.identity == adapter.identity and back.scaling == adapter.scaling
        assert back.factors.keys() == adapter.factors.keys()
        config = json.loads((tmp_path / str(i) / "adapter_config.json").read_text())
        assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"], "in no order of the moment"


def test_a_folder_finds_its_base_from_any_directory(
    bank: Bank,
    backbone: Backbone,
    policies: list[Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_adapter(policies[0], tmp_path / "adapter", backbone.source)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoPeftModelForCausalLM.from_pretrained("../adapter", dtype=torch.float32).eval()
    with bank.mounted(policies[:1]):
        torch.testing.assert_close(bank_logits(bank, [[1.0]] * 3), plain_logits(model), **CLOSE)


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_that_peft_wrote_are_read(bank: Bank, model_folder: Path, tmp_path: Path, rslora: bool) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lora = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=rslora, init_lora_weights=False
    )
    model = get_peft_model(base, lora).eval()
    model.save_pretrained(tmp_path)
    with bank.mounted([load_adapter(tmp_path)]):
        torch.testing.assert_close(bank_logits(bank, [[1.0]] * 3), plain_logits(model), **CLOSE)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "use_dora"),
        (LoraConfig(target_modules=["q_proj"], rank_pattern={"q_proj": 2}), "rank_pattern"),
        (LoraConfig(target_modules=["q_proj"], alpha_pattern={"q_proj": 2}), "alpha_pattern"),
        (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), "modules_to_save"),
        (LoraConfig(target_modules=["q_proj"], lora_bias=True), "lora_bias"),
        (LoraConfig(target_modules=["embed_tokens"]), "embed"),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "IA3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_more_than_plain_lora_is_refused(
    model_folder: Path, tmp_path: Path, config: LoraConfig | IA3Config, named: str
) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config)
    model.save_pretrained(tmp_path)
    with pytest.raises(SipoError, match=named):
        load_adapter(tmp_path)


def test_a_folder_without_an_adapter_is_refused(policies: list[Adapter], tmp_path: Path) -> None:
    with pytest.raises(SipoError, match="no readable PEFT adapter"):
        load_adapter(tmp_path / "nowhere")
    save_adapter(policies[0], tmp_path, "base")
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(SipoError, match="no readable PEFT adapter"):
        load_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(SipoError, match="no readable PEFT adapter"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("name", ["query", "proj", "lm_head"])
def test_layers_that_cannot_be_adapted_are_named(backbone: Backbone, name: str) -> None:
    with pytest.raises(SipoError, match=f"`{name}`.*q_proj"):
        new_adapter(backbone.model, Lora(target_modules=("q_proj", name)), seed=0)


def test_an_adapter_of_the_output_head_is_refused(bank: Bank) -> None:
    """Scores are computed from the head's own weight, so an update of it would silently do nothing."""
    adapter = Adapter({"lm_head": (torch.ones(1, 32), torch.ones(bank.head.out_features, 1))}, 1.0)
    with pytest.raises(SipoError, match="lm_head"), bank.mounted([adapter]):
        pass


def hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_unmounting_leaves_the_model_as_it_was(bank: Bank, policies: list[Adapter]) -> None:
    weights = {name: value.clone() for name, value in bank.model.state_dict().items()}
    expected, before = plain_logits(bank.model), hooks(bank.model)
    with bank.mounted(policies):
        bank_logits(bank, [[0.2, 0.3, 0.5]] * 3)
        assert hooks(bank.model) > before
    stranger = Adapter({"model.layers.7.self_attn.q_proj": policies[0].factors[next(iter(policies[0].factors))]}, 1.0)
    with pytest.raises(SipoError, match="another base"), bank.mounted([stranger]):
        pass
    with pytest.raises(KeyboardInterrupt), bank.mounted(policies):
        bank_logits(bank, [[0.2, 0.3, 0.5]] * 3)
        raise KeyboardInterrupt
    assert hooks(bank.model) == before and bank.policies == ()
    assert torch.equal(plain_logits(bank.model), expected)
    assert all(torch.equal(value, weights[name]) for name, value in bank.model.state_dict().items())


def test_one_mounting_at_a_time(bank: Bank, policies: list[Adapter]) -> None:
    with bank.mounted(policies[:2]):
        with pytest.raises(RuntimeError, match="already mounted"), bank.mounted(policies[2:]):
            pass
        assert bank.policies == tuple(policies[:2]), "a refused mounting must not undo the one that stands"
        bank_logits(bank, [[0.5, 0.5]] * 3)
    assert hooks(bank.model) == 0


shares = st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(shares, shares, st.floats(-2, 2, width=32))
def test_soups_are_linear(policies: list[Adapter], v: list[float], w: list[float], t: float) -> None:
    both = [x + t * y for x, y in zip(v, w, strict=True)]
    parts, whole = (update(soup(policies, v)), update(soup(policies, w))), update(soup(policies, both))
    nested = update(soup([soup(policies, v), soup(policies, w)], [1.0, t]))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[0][name] + t * parts[1][name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(value, nested[name], rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).filter(lambda w: sum(w) > 0.1))
def test_a_soup_of_one_adapter_is_that_adapter(policies: list[Adapter], w: list[float]) -> None:
    """Weights that sum to one take nothing away from what the policies share."""
    weights = [share / sum(w) for share in w]
    for name, value in update(soup([policies[0]] * 3, weights)).items():
        torch.testing.assert_close(value, update(policies[0])[name], rtol=1e-4, atol=1e-5)


def test_soups_hold_no_more_than_they_need(policies: list[Adapter]) -> None:
    before = [policy.identity for policy in policies]
    assert soup(policies, (0.5, 0.0, 0.5)).rank == policies[0].rank + policies[2].rank
    nothing = soup(policies, (0.0, 0.0, 0.0))
    assert all((value == 0).all() for value in update(nothing).values())
    assert [policy.identity for policy in policies] == before


@pytest.mark.parametrize("rank", [1, 4, 7, 12, 40])
def test_a_cut_adapter_is_the_nearest_of_its_rank(rank: int, uneven: list[Adapter]) -> None:
    """Held against the singular values of the whole update; beyond the adapter's rank nothing is lost."""
    exact = soup(uneven, (0.5, 0.2, 0.3))
    near, errors = cut(exact, rank)
    assert near.rank == rank and errors.keys() == exact.factors.keys()
    for name, whole in update(exact).items():
        singular = torch.linalg.svdvals(whole.double())
        expected = float(singular[rank:].norm() / singular.norm())
        assert errors[name] == pytest.approx(expected, abs=1e-6)
        off = torch.linalg.matrix_norm(update(near)[name] - whole) / torch.linalg.matrix_norm(whole)
        assert float(off) == pytest.approx(expected, abs=1e-5)
    assert max(errors.values()) > 1e-3 if rank < exact.rank else max(errors.values()) < 1e-6


def test_an_adapter_that_changes_nothing_is_cut_without_loss(backbone: Backbone) -> None:
    near, errors = cut(new_adapter(backbone.model, Lora(r=4), 0), 2)
    assert near.still and set(errors.values()) == {0.0}
