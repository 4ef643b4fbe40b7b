"""Every family of models against its plain self: PEFT's model, one sequence at a time, without a cache or a mask."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from architectures import FAMILIES, LATENT, LLAMA, tiny
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sipo.bank import Adapter, Bank, new_adapter, routes
from sipo.bank.adapter import attention_modules
from sipo.check import check
from sipo.config.file import parse_config
from sipo.decoding import Request, at_mod, at_soup, base, decode
from sipo.engines import probe
from sipo.errors import SipoError
from sipo.logprobs.mixture import mixture_logprobs
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import response_logprobs, score_rows
from sipo.models.load import UNLIMITED, Backbone, attention_of, context_of
from sipo.settings import Decoding, Lora
from sipo.training.losses import preference_loss

CORNERS = ((1.0, 0.0), (0.0, 1.0))
STEM = (20, 21, 22, 23, 24)
GROUPS = [
    Group((*STEM, 30, 31, 32, 33), ((40, 41, 42, 43, 44, 45, 46), (50, 51, 52))),
    Group((7, 8, 9), ((60, 61, 62, 63, 64, 65, 66, 67, 68), (70,), (71, 72, 73, 74))),
]
NEW = 7
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a proof is made depends on no other test."""
    monkeypatch.setattr(routes, "_remembered", {})


def backbone_of(model: PreTrainedModel) -> Backbone:
    return Backbone(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a"))), "")


@cache
def bank_of(family: str) -> Bank:
    return Bank(backbone_of(tiny(family)))


@cache
def adapters_of(family: str) -> tuple[Adapter, ...]:
    """Two, each of which changes the model."""
    adapters = []
    for seed in (1, 2):
        fresh, random = new_adapter(tiny(family), Lora(r=2, alpha=4.0), seed), torch.Generator().manual_seed(seed)
        factors = {n: (a, 0.3 * torch.randn(b.shape, generator=random)) for n, (a, b) in fresh.factors.items()}
        adapters.append(Adapter(factors, fresh.scaling))
    return tuple(adapters)


@cache
def peft_of(family: str, index: int) -> PeftModel:
    adapter = adapters_of(family)[index]
    lora = LoraConfig(
        r=2, lora_alpha=4, target_modules=list(attention_modules(tiny(family))), fan_in_fan_out=family == "gpt2"
    )
    model = get_peft_model(deepcopy(tiny(family)), lora).eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, (a, b) in adapter.factors.items():
            weights[f"base_model.model.{name}.lora_A.default.weight"].copy_(a)
            weights[f"base_model.model.{name}.lora_B.default.weight"].copy_(b)
    return model


def plain(family: str, index: int | None, tokens: tuple[int, ...]) -> Tensor:
    """log p [T, V] of one sequence alone; the backbone's where the index is None."""
    model = tiny(family) if index is None else peft_of(family, index)
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)


def mixed(family: str, weights: tuple[float, ...], prompt: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """MOD's log p [R, V] of each token of the response."""
    with torch.no_grad():
        each = [w * plain(family, i, (*prompt, *response)) for i, w in enumerate(weights) if w]
    return sum(each, torch.zeros(()))[len(prompt) - 1 : -1].log_softmax(-1)


def summed(logprobs: Tensor, response: tuple[int, ...]) -> float:
    return float(logprobs.gather(-1, torch.tensor(response)[:, None]).sum())


@every_family
def test_the_routes_are_those_that_are_right(family: str) -> None:
    bank = bank_of(family)
    with bank.mounted(adapters_of(family)):
        assert (bank.routes.packs, bank.routes.mixes) == (FAMILIES[family].packs, FAMILIES[family].mixes)
    assert bool(bank.routes.said) == (not (bank.routes.packs and bank.routes.mixes))


@every_family
def test_scores_are_those_of_each_response_alone(family: str) -> None:
    with bank_of(family).mounted(adapters_of(family)) as bank:
        rows = [(group, point) for group in GROUPS for point in (*CORNERS, (0.0, 0.0))]
        scores = score_rows(bank, rows)
        at_weights = [mixture_logprobs(bank, group, [at_mod((0.3, 0.7))])[0] for group in GROUPS]
    for (group, point), values in zip(rows, scores, strict=True):
        index = CORNERS.index(point) if point in CORNERS else None
        for response, value in zip(group.responses, values, strict=True):
            with torch.no_grad():
                logprobs = plain(family, index, (*group.prompt, *response))[len(group.prompt) - 1 : -1]
            assert value == pytest.approx(summed(logprobs, response), abs=2e-3, rel=1e-4)
    for group, values in zip(GROUPS, at_weights, strict=True):
        for response, value in zip(group.responses, values, strict=True):
            expected = summed(mixed(family, (0.3, 0.7), group.prompt, response), response)
            assert value == pytest.approx(expected, abs=2e-3, rel=1e-4)


@every_family
@pytest.mark.parametrize("prompts", [[(*STEM, 30, 31, 32), (*STEM, 40), STEM], [(7, 8, 9), (50, 51, 52, 53, 54, 55)]])
def test_texts_decoded_together_are_greedy_under_the_plain_model(family: str, prompts: list[tuple[int, ...]]) -> None:
    """Prompts of several lengths, one of them twice, as mixtures and as single points; some end early."""
    mixtures = {at_mod((0.3, 0.7)): (0.3, 0.7), at_soup((1.0, 0.0)): (1.0, 0.0)}
    asked = [Request(prompt, mixture) for prompt in (*prompts, prompts[0]) for mixture in mixtures]
    greedy = Decoding(temperature=0)
    with bank_of(family).mounted(adapters_of(family)) as bank:
        endless = decode(bank, asked, greedy, NEW, set())
        stop = endless[0].tokens[1]
        ended = decode(bank, asked, greedy, NEW, {stop})
    assert any(each.finished for each in ended)
    for request, whole, part in zip(asked, endless, ended, strict=True):
        assert len(whole.tokens) == NEW
        text = whole.tokens if part.finished and len(part.tokens) < 3 else part.tokens
        logprobs = mixed(family, mixtures[request.mixture], request.prompt, text)
        regret = logprobs.amax(-1) - logprobs.gather(-1, torch.tensor(text)[:, None])[:, 0]
        assert float(regret.max()) < 2e-3


@every_family
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_step_of_dpo_has_the_gradient_that_peft_has(
    family: str, recomputes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_of(family), "recomputes", recomputes)
    adapter = adapters_of(family)[0].trainable_copy(torch.device("cpu"))
    first, second = GROUPS[0].responses
    group, one, beta = Group(GROUPS[0].prompt, (first, second)), torch.ones(1), 0.5
    with bank_of(family).mounted([adapter]) as bank:
        packed = pack([group], "cpu", bank.routes.packs)
        logprobs = response_logprobs(bank, packed, torch.ones(1, 1))
        preference_loss((logprobs[0] - logprobs[1])[None], one[:, None], one, beta).sum().backward()
    model = peft_of(family, 0)
    model.zero_grad()
    sums = []
    for response in (first, second):
        each = plain(family, 0, (*group.prompt, *response))[len(group.prompt) - 1 : -1]
        sums.append(each.gather(-1, torch.tensor(response)[:, None]).sum())
    preference_loss((sums[0] - sums[1])[None], one[:, None], one, beta).sum().backward()
    theirs = {name: each.grad for name, each in model.named_parameters()}
    assert any(float(b.grad.abs().max()) > 1e-5 for _, b in adapter.factors.values())
    for name, factors in adapter.factors.items():
        for mine, which in zip(factors, "AB", strict=True):
            expected = theirs[f"base_model.model.{name}.lora_{which}.default.weight"]
            scale = float(expected.norm()) + 1e-3
            assert float((mine.grad - expected).norm()) < 2e-3 * scale, name


@pytest.mark.parametrize("widened", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe", "gpt_oss", "lfm2", "qwen3_5", "bloom"])
def test_the_verdict_is_the_same_in_16_bits(family: str, widened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 meanwhile, and for a model too large for that in its own dtype."""
    if not widened:
        monkeypatch.setattr(probe, "WIDENED", 0)
    model = deepcopy(tiny(family)).bfloat16()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    bank = Bank(backbone_of(model)).proven(list(adapters_of(family)[0].factors))
    assert bank.routes.packs == FAMILIES[family].packs
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    ("model_type", "settings", "named"),
    [
        ("rwkv", {"vocab_size": 96, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}, "cache"),
        ("mamba", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "in_proj"),
        (
            "recurrent_gemma",  # its layers hold the state of whoever was read last
            {**LLAMA, "block_types": ["recurrent", "attention"], "attention_window_size": 8, "lru_width": 32},
            "cache",
        ),
        ("bert", {**LLAMA, "is_decoder": True}, "between"),
        ("bert-generation", LLAMA, "later ones"),
        ("deepseek_v32", {**LLAMA, **LATENT, "index_n_heads": 2, "index_head_dim": 8}, "not supported"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(model_type: str, settings: dict[str, object], named: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    with pytest.raises(SipoError, match=named) as refusal:
        Bank(backbone_of(model)).proven(list(new_adapter(model, Lora(r=2), 0).factors))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[Bank]:
    """The banks that a proof is made for."""
    made, find = [], probe.find_routes
    monkeypatch.setattr(probe, "find_routes", lambda bank, layers: made.append(bank) or find(bank, layers))
    return made


def changed(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    return model


def configured(model: PreTrainedModel) -> PreTrainedModel:
    model.config.sliding_window = 4
    return model


@pytest.mark.parametrize("other", [changed, configured, lambda model: model.bfloat16()], ids=["weight", "key", "dtype"])
def test_the_same_model_is_proven_once_and_another_one_anew(proofs: list[Bank], other: Any) -> None:
    layers = list(adapters_of("llama")[0].factors)
    found = [Bank(backbone_of(deepcopy(tiny("llama")))).proven(layers).routes for _ in range(3)]
    assert len(proofs) == 1 and len(set(found)) == 1
    Bank(backbone_of(deepcopy(tiny("llama")))).proven(layers[:1])
    assert len(proofs) == 2, "other layers"
    Bank(backbone_of(other(deepcopy(tiny("llama"))))).proven(layers)
    assert len(proofs) == 3


def test_a_refusal_is_not_remembered(proofs: list[Bank], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as closer, pytest.raises(SipoError, match="not supported"):
        closer.setattr(probe, "TOLERANCES", {True: (-1.0, -1.0)})
        Bank(backbone_of(tiny("llama"))).proven([])
    assert Bank(backbone_of(tiny("llama"))).proven([]).routes.packs and len(proofs) == 2


def test_a_bank_is_proven_once(proofs: list[Bank]) -> None:
    bank = Bank(backbone_of(tiny("llama")))
    for _ in range(2):
        with bank.mounted(adapters_of("llama")), torch.no_grad():
            assert base(2).points == ((0.0, 0.0),)
        with bank.mounted([]):
            pass
    assert len(proofs) == 1
    assert bank.computed == 0, "the proof is not counted as work"


@pytest.mark.parametrize(
    ("family", "modules"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("phi3", {"qkv_proj", "o_proj"}),
        ("gpt2", {"c_attn", "c_proj"}),
        ("opt", {"q_proj", "k_proj", "v_proj", "out_proj"}),
        ("bloom", {"query_key_value", "dense"}),
        ("mpt", {"Wqkv", "out_proj"}),
        ("lfm2", {"q_proj", "k_proj", "v_proj", "out_proj"}),
        ("deepseek_v3", {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}),
    ],
)
def test_left_open_the_layers_of_attention_are_adapted(family: str, modules: set[str]) -> None:
    assert set(attention_modules(tiny(family))) == modules


@pytest.mark.parametrize(
    ("family", "changed", "context"),
    [
        ("llama", {}, 256),
        ("gemma3", {}, 256),
        ("mistral", {}, 256),
        ("gpt2", {}, 256),
        ("mpt", {}, 256),
        ("bloom", {"max_position_embeddings": None}, UNLIMITED),
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}, 64),
        ("llama", {"rope_parameters": {**LONG, "original_max_position_embeddings": 32}}, 32),
    ],
)
def test_the_context_is_that_of_the_positions(family: str, changed: dict[str, object], context: int) -> None:
    """Neither a window of attention, nor what LongRoPE would reach with all other positions."""
    settings = {**FAMILIES[family].settings, **changed}
    config = AutoConfig.for_model(FAMILIES[family].model_type, **{k: v for k, v in settings.items() if v is not None})
    assert context_of(config) == context


@pytest.mark.parametrize("asked", ["eager", "flash_attention_2", "flex_attention", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_attention_is_of_a_kind_that_takes_any_mask(family: str, asked: str) -> None:
    config = deepcopy(tiny(family).config)
    config._attn_implementation = asked
    assert attention_of(config) == ("sdpa" if family == "llama" else "eager")


@pytest.mark.parametrize("family", ["gemma3", "phi3", "gpt2", "lfm2", "bloom", "granite"])
@pytest.mark.parametrize("asked", [None, "flash_attention_2"])
def test_check_and_score_from_a_folder(
    family: str,
    asked: str | None,
    model_folder: Path,
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A whole checkpoint of another family in place of the Llama, without a key more than its path."""
    folder = tmp_path / "model"
    copytree(model_folder, folder)
    wide = {**FAMILIES[family].settings, "vocab_size": 320, "max_position_embeddings": 2048, "n_positions": 2048}
    config = AutoConfig.for_model(FAMILIES[family].model_type, **wide)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if asked:
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stated, "attn_implementation": asked}))
    settings["model"]["path"] = str(folder)
    check(parse_config(settings, "here"))
    said = capsys.readouterr().out
    assert all(name in said for name in attention_modules(tiny(family)))
