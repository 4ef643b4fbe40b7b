"""PEFT folders: what sipo reads it computes as PEFT does, and anything else is refused in one line."""

import copy
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sipo.bank import Adapter, Bank, load_adapter, new_adapter, save_adapter, soup
from sipo.errors import SipoError
from sipo.models.load import Backbone
from sipo.models.shapes import outline
from sipo.rewards.kinds.policy import Policy
from sipo.rewards.policy import PolicyScorer
from sipo.settings import Execution, Lora

IDS = torch.arange(5, 25)[None]
WEIGHTS = "adapter_model.safetensors"
Q0 = "model.layers.0.self_attn.q_proj"
Edit = Callable[[dict[str, Any]], dict[str, Any]]


def config_of(folder: Path, **fields: Any) -> None:
    told = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**told, **fields}))


def tensors_of(folder: Path, edit: Edit) -> None:
    save_file(
        {name: each.clone().contiguous() for name, each in edit(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS
    )


@pytest.fixture(scope="module")
def good(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that PEFT wrote, with a B that is not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, init_lora_weights=False, target_modules=["q_proj", "up_proj"]
        )
        get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), lora).save_pretrained(
            folder
        )
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def base(model_folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)


@torch.no_grad()
def ours(bank: Bank, adapter: Adapter) -> torch.Tensor:
    with bank.mounted([adapter]):
        hidden = bank.hidden_states(torch.ones(1, 1), input_ids=IDS).last_hidden_state
        return bank.head(hidden)


@torch.no_grad()
def theirs(base: LlamaForCausalLM, folder: Path) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()(IDS).logits


def equal_to_peft(bank: Bank, base: LlamaForCausalLM, folder: Path) -> None:
    adapter = load_adapter(folder, outline(base.config))
    torch.testing.assert_close(ours(bank, adapter), theirs(base, folder), rtol=1e-4, atol=1e-4)


PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "dropout": {"lora_dropout": 0.3},
    "stored the other way": {"fan_in_fan_out": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "all linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)"},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "one layer by number": {"layers_to_transform": 0},
    "but some": {"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*layers\.1\.self_attn\.o_proj"},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_lora_is_what_peft_has(bank: Bank, base: LlamaForCausalLM, tmp_path: Path, kind: str) -> None:
    lora = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "up_proj"], **PLAIN[kind]})  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(copy.deepcopy(base), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    assert not torch.allclose(theirs(base, tmp_path), base(IDS).logits, atol=1e-2)
    equal_to_peft(bank, base, tmp_path)


OTHER: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, fast": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "corda": {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}},
    "loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "eva": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
    "loftq settings": {"loftq_config": {"loftq_bits": 4}},
    "activated": {"alora_invocation_tokens": [5, 6]},
    "dora": {"use_dora": True},
    "quantised": {"use_qalora": True},
    "bias": {"bias": "lora_only"},
    "biased": {"lora_bias": True},
    "ranks": {"rank_pattern": {"q_proj": 2}},
    "alphas": {"alpha_pattern": {"q_proj": 2}},
    "more modules": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [1]},
    "experts": {"target_parameters": ["mlp.experts.gate_up_proj"]},
    "replicated": {"layer_replication": [[0, 2]]},
    "megatron": {"megatron_config": {"a": 1}},
    "a feature to come": {"use_next_year": True},
    "another kind": {"peft_type": "IA3"},
    "another task": {"task_type": "SEQ_CLS"},
}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_more_than_plain_lora_is_named(folder: Path, kind: str) -> None:
    config_of(folder, **OTHER[kind])
    with pytest.raises(SipoError, match="|".join(f"`{field}" for field in OTHER[kind])) as error:
        load_adapter(folder)
    assert str(error.value).startswith(f"{folder}: ") and "\n" not in str(error.value)


def test_what_other_versions_of_peft_have_and_do_not_use_is_nothing(
    bank: Bank, base: LlamaForCausalLM, folder: Path
) -> None:
    config_of(folder, enable_lora=None, merge_weights=False, something_new={}, auto_mapping={"unsloth_fixed": True})
    equal_to_peft(bank, base, folder)


def without(part: str) -> Edit:
    return lambda tensors: {name: each for name, each in tensors.items() if part not in name}


def replaced(part: str, by: Callable[[Any], Any]) -> Edit:
    return lambda tensors: {name: by(each) if part in name else each for name, each in tensors.items()}


TORN: dict[str, tuple[Edit, str]] = {
    "no A": (without(f"{Q0}.lora_A"), f"one factor of `{Q0}` without the other"),
    "no B": (without(f"{Q0}.lora_B"), f"one factor of `{Q0}` without the other"),
    "half of the layers": (without("layers.1."), "no weights for `model.layers.1"),
    "one kind of layer": (without("up_proj"), "no weights for .*up_proj"),
    "nothing": (lambda tensors: {}, "holds no weights"),
    "another rank": (replaced("lora_A", lambda a: a[:2]), "not both of rank r = 4"),
    "both of another rank": (
        lambda tensors: {name: each[:2] if "lora_A" in name else each[:, :2] for name, each in tensors.items()},
        "not both of rank r = 4",
    ),
    "another width": (replaced(f"{Q0}.lora_A", lambda a: a[:, :16]), "does not take"),
    "another height": (replaced(f"{Q0}.lora_B", lambda b: b[:16]), "does not take"),
    "turned": (replaced("lora_", lambda each: each.T), "not both of rank"),
    "exchanged": (
        lambda tensors: {
            name.translate(str.maketrans("AB", "BA")): each for name, each in tensors.items()
        },
        "not both of rank",
    ),
    "more dimensions": (replaced(f"{Q0}.lora_A", lambda a: a[None]), "not both of rank"),
    "integers": (replaced(f"{Q0}.lora_A", lambda a: a.int()), "which sipo does not read"),
    "nan": (replaced(f"{Q0}.lora_B", lambda b: b / 0), "holds NaN or infinite numbers; train it anew"),
    "no prefix": (
        lambda tensors: {name.removeprefix("base_model.model."): each for name, each in tensors.items()},
        "which sipo does not read",
    ),
    "with the adapter's name": (
        lambda tensors: {name.replace(".weight", ".default.weight"): each for name, each in tensors.items()},
        "which sipo does not read",
    ),
    "a layer that is not named": (
        lambda tensors: {**tensors, **{name.replace("q_proj", "v_proj"): each for name, each in tensors.items()}},
        "leave out",
    ),
    "layers of a larger base": (
        lambda tensors: {**tensors, **{name.replace("layers.1.", "layers.7."): each for name, each in tensors.items()}},
        "which its base model has not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", TORN)
def test_a_torn_adapter_is_named(folder: Path, base: LlamaForCausalLM, damage: str) -> None:
    edit, message = TORN[damage]
    tensors_of(folder, edit)
    with pytest.raises(SipoError, match=message) as error:
        load_adapter(folder, outline(base.config))
    assert str(error.value).startswith(f"{folder}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["half of the layers", "another width", "layers of a larger base"])
def test_a_policy_that_does_not_fit_its_base_is_refused_at_check_and_at_scoring(
    folder: Path, model_folder: Path, damage: str
) -> None:
    execution = Execution(device="cpu")
    PolicyScorer(Policy(policy=folder, base=str(model_folder), dtype="float32"), execution).check()
    tensors_of(folder, TORN[damage][0])
    scorer = PolicyScorer(Policy(policy=folder, base=str(model_folder), dtype="float32"), execution)
    for refused in (scorer.check, lambda: list(scorer.score([]))):
        with pytest.raises(SipoError, match=TORN[damage][1]):
            refused()


def test_an_adapter_of_another_shape_is_not_mounted(bank: Bank, backbone: Backbone) -> None:
    fine = new_adapter(backbone.model, Lora(), seed=0)
    name, (a, b) = next(iter(fine.factors.items()))
    for pair in ((a[:, :-1], b), (a, b[:-1])):
        mount = bank.mounted([Adapter({**fine.factors, name: pair}, fine.scaling)])
        with pytest.raises(SipoError, match=f"`{name}`, of another shape"):
            mount.__enter__()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_infinite_is_written(backbone: Backbone, tmp_path: Path, value: float) -> None:
    adapter = new_adapter(backbone.model, Lora(), seed=0)
    list(adapter.factors.values())[-1][1][0, 0] = value
    with pytest.raises(SipoError, match="holds NaN or infinite numbers; lower the learning rate"):
        save_adapter(adapter, tmp_path / "adapter", "base")
    assert not (tmp_path / "adapter").exists()


# Whatever the folder holds

SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from([10**400, 0.5, 2.0, float("nan"), float("inf")])
)
TEXTS = st.sampled_from(["", "q_proj", "all-linear", "[", "(", ".*", "LORA", "pissa", "4", "none", "CAUSAL_LM", "True"])
JSON = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
FIELDS = sorted({*LoraConfig().to_dict(), "something_else"})


BENT: dict[str, Callable[[torch.Tensor, random.Random], torch.Tensor]] = {
    "reshaped": lambda tensor, rng: tensor.reshape(-1),
    "turned": lambda tensor, rng: tensor.T,
    "cut": lambda tensor, rng: tensor[: tensor.shape[0] // 2],
    "spoilt": lambda tensor, rng: torch.full(tensor.shape, rng.choice([torch.nan, torch.inf, 0.0])),
    "integers": lambda tensor, rng: tensor.int(),
    "half": lambda tensor, rng: tensor.half(),
    "empty": lambda tensor, rng: torch.zeros(0),
}


def mutate(folder: Path, draw: Any) -> None:
    """One to three changes to a good folder."""
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            fields = json.loads((folder / "adapter_config.json").read_text())
            name = draw(st.sampled_from(FIELDS))
            if draw(st.integers(0, 5)):
                fields[name] = draw(JSON)
            else:
                fields.pop(name, None)
            (folder / "adapter_config.json").write_text(json.dumps(fields))
        else:
            rng = random.Random(draw(st.integers(0, 2**30)))
            tensors = load_file(folder / WEIGHTS)
            if not tensors:
                continue
            name = rng.choice(sorted(tensors))
            tensor = tensors.pop(name)
            kind = draw(st.sampled_from(["gone", "renamed", *BENT]))
            if kind == "renamed":
                new = rng.choice(["lora_A", "lora_B", "lora_C", "weight", "layers.0", "layers.9", "v_proj", ""])
                tensors[name.replace(rng.choice(["lora_A", "lora_B", "q_proj", "layers.1", "base_model."]), new)] = (
                    tensor
                )
            elif kind != "gone":
                tensors[name] = BENT[kind](tensor, rng).contiguous()
            save_file(tensors, folder / WEIGHTS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_folder_holds_it_is_refused_or_what_peft_has(
    bank: Bank, base: LlamaForCausalLM, good: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = Path(shutil.copytree(good, tmp_path_factory.mktemp("fuzz") / "adapter"))
    try:
        mutate(folder, data.draw)
        try:
            adapter = load_adapter(folder, outline(base.config))
            mine = ours(bank, adapter)
        except SipoError:
            pass
        else:
            torch.testing.assert_close(mine, theirs(base, folder), rtol=1e-3, atol=1e-3)
    finally:
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize("n", [2, 3])
def test_a_soup_of_adapters_on_different_layers_names_just_its_own(
    backbone: Backbone, tmp_path: Path, n: int, recwarn: pytest.WarningsRecorder
) -> None:
    """PEFT would warn of those that it is told of and does not find."""
    kinds = [Lora(r=2, target_modules=("q_proj",)), Lora(r=3, layers="upper"), Lora(r=2, target_modules=("up_proj",))]
    drawn = [new_adapter(backbone.model, kind, seed) for seed, kind in enumerate(kinds[:n])]
    parts = [  # a B that is not zero
        Adapter({name: (a, torch.ones_like(b) / 50) for name, (a, b) in each.factors.items()}, each.scaling)
        for each in drawn
    ]
    mixed = soup(parts, [1 / n] * n)
    save_adapter(mixed, tmp_path, backbone.source)
    assert load_adapter(tmp_path, outline(backbone.model.config)).identity == mixed.identity
    model = copy.deepcopy(backbone.model)
    theirs = PeftModel.from_pretrained(model, tmp_path)(input_ids=IDS).logits
    assert not [each for each in recwarn if "adapter" in str(each.message)]
    expected = torch.func.functional_call(backbone.model, mixed.merged(backbone.model), (IDS,)).logits
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=1e-4)
