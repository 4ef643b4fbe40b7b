"""Policies as GGUF adapters: llama.cpp's own server adds them up to the exact soup, at scales that a request names."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from architectures import FAMILIES, tiny
from families import llama_writer
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from sipo.bank import Adapter, new_adapter
from sipo.bank.adapter import ADAPTABLE
from sipo.bank.kinds import base_of
from sipo.cli.main import main
from sipo.commands import llama_scales, llama_server
from sipo.errors import SipoError
from sipo.finished.gguf_lora import ARCHITECTURES, PAIRED, factors, write_adapter
from sipo.finished.handle import FinishedRun
from sipo.models.locate import gguf_file
from sipo.settings import Lora

TOKENS = [*range(40, 70)]
WEIGHTS = [(1.0, 0.0), (1 / 3, 2 / 3), (0.0, 0.0)]
NEW = 6
CLOSE = 1e-4
"""Of log-probabilities: llama.cpp adds up float32 in another order."""
SERVE = """
import json, sys
from urllib.request import Request, urlopen
import xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = asked["base"]
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = 256, 1, 1, 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in asked["adapters"].items()]
params.warmup = False
server = xllamacpp.Server(params)
def answer(path, request):
    with urlopen(Request(server.listening_address + path, json.dumps(request).encode(), {"Content-Type": "application/json"})) as found:
        return json.load(found)
print(json.dumps([answer(*each) for each in asked["requests"]]), flush=True)
"""
"""The `llama-server` that a package brings."""


def write_base(folder: Path, file: Path) -> None:
    """A Llama as llama.cpp reads it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, tokenizer = model.config, AutoTokenizer.from_pretrained(folder)
    writer = llama_writer(file, config)
    writer.add_rope_dimension_count(config.head_dim)
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(config.vocab_size))))
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(config.vocab_size)]
    )
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in made["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        known, array = names.get_name(name, try_suffixes=(".weight",)), tensor.numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(known.split(".")[-2])
        writer.add_tensor(known, array[neighbours(len(array), heads)] if heads else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def neighbours(rows: int, heads: int) -> list[int]:
    """In each head, what transformers rotates together side by side."""
    d = rows // heads
    return [head * d + half * d // 2 + j for head in range(heads) for j in range(d // 2) for half in range(2)]


def by_llama_cpp(
    base: Path, adapters: Mapping[str, float], requests: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    asked = {"base": str(base), "adapters": adapters, "requests": requests}
    done = subprocess.run(
        [sys.executable, "-c", SERVE], input=json.dumps(asked), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def exported(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """By the command line: the folder, and what was said of it."""
    place = tmp_path_factory.mktemp("gguf")
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("sys.stdout.write", said.append)
        words = ["export", str(served_run), "--weights", "detail=0.3,brevity=0.7", "--gguf-lora", "--json"]
        assert main([*words, "--to", str(place / "adapters")]) == 0
    return place / "adapters", json.loads("".join(said))


def test_llama_cpp_has_the_log_probabilities_of_the_exact_soup(
    exported: tuple[Path, dict[str, Any]], opened: FinishedRun, tmp_path: Path
) -> None:
    """Greedily, each token at the scales of its request, or of the start where it names none, beside PEFT."""
    _, told = exported
    base = Path(base_of(opened.path / "align" / "adapters" / "detail"))
    write_base(base, tmp_path / "base.gguf")
    asked = {
        "prompt": TOKENS,
        "n_predict": NEW,
        "temperature": 0,
        "n_probs": 8,
        "cache_prompt": False,
        "return_tokens": True,
    }
    asked |= {"ignore_eos": True, "grammar": "root ::= [ -~]+"}  # half a letter of UTF-8 has no entry
    bodies = [asked, asked | told["request"], *(asked | llama_scales(weight) for weight in WEIGHTS)]
    adapters = dict(zip(told["adapters"], told["scales"].values(), strict=True))
    answers = by_llama_cpp(tmp_path / "base.gguf", adapters, [("/completion", body) for body in bodies])
    found = []
    for weight, answer in zip([(0.3, 0.7), (0.3, 0.7), *WEIGHTS], answers, strict=True):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        if any(weight):
            soup = opened.at(dict(zip(opened.objectives, weight, strict=True)), method="soups")
            model = PeftModel.from_pretrained(model, soup.save_pretrained(tmp_path / str(len(found))))
        with torch.inference_mode():
            logps = model(torch.tensor([[*TOKENS, *answer["tokens"]]])).logits[0, len(TOKENS) - 1 :].log_softmax(-1)
        assert len(answer["completion_probabilities"]) == len(answer["tokens"]) == NEW
        for at, told_there in zip(logps, answer["completion_probabilities"], strict=False):
            best = {each["id"]: each["logprob"] for each in told_there["top_logprobs"]}
            assert len(best) == 8 and best == pytest.approx({token: float(at[token]) for token in best}, abs=CLOSE)
        found.append(logps[0])
    assert all((one - other).abs().max() > 100 * CLOSE for i, one in enumerate(found[1:]) for other in found[1 : 1 + i])


def test_what_is_written_says_how_it_is_used(exported: tuple[Path, dict[str, Any]], served_run: Path) -> None:
    folder, told = exported
    assert sorted(each.name for each in folder.iterdir()) == ["README.md", "brevity.gguf", "detail.gguf"]
    assert told["adapters"] == [str(folder / "detail.gguf"), str(folder / "brevity.gguf")]
    assert told["scales"] == {"detail": 0.3, "brevity": 0.7}
    page = (folder / "README.md").read_text()
    assert "llama-server --model model.gguf --lora-scaled detail.gguf:0.3,brevity.gguf:0.7\n" in page
    assert json.dumps(told["request"]) in page and "sum to the method `soups` at detail=0.3,brevity=0.7; at" in page
    assert f"over `{base_of(served_run / 'align' / 'adapters' / 'detail')}`" in page
    one, other = told["adapters"]
    assert told["serve"] == f"llama-server --model model.gguf --lora-scaled {one}:0.3,{other}:0.7"


def test_paths_are_written_as_llama_server_reads_them() -> None:
    """Values are split at commas as a row of CSV, then at a colon (its `--lora-scaled`)."""
    assert llama_server(Path("b.gguf"), {Path("a,b/c.gguf"): 0.5, Path("d.gguf"): 1 / 3}) == (
        f"""llama-server --model b.gguf --lora-scaled '"a,b/c.gguf:0.5",d.gguf:{1 / 3}'"""
    )


@pytest.mark.parametrize("family", [name for name, each in FAMILIES.items() if each.model_type in ARCHITECTURES])
def test_an_adapter_is_laid_out_as_its_base(family: str, tmp_path: Path) -> None:
    """Every linear layer has a name; the rows of queries and keys change places as transformers changes them back."""
    model = tiny(family)
    layers = {name for name, each in model.named_modules() if isinstance(each, ADAPTABLE) and name != "lm_head"}
    fresh = new_adapter(
        model, Lora(r=3, alpha=7.0, target_modules=sorted({name.rsplit(".", 1)[-1] for name in layers})), 1
    )
    drawn = torch.Generator().manual_seed(1)
    adapter = Adapter(
        {n: (a, torch.randn(b.shape, generator=drawn)) for n, (a, b) in fresh.factors.items()}, fresh.scaling
    )
    write_adapter(adapter, model.config, tmp_path / "a.gguf")
    read = gguf.GGUFReader(tmp_path / "a.gguf")
    about = {name: field.contents() for name, field in read.fields.items()}
    assert (about["general.type"], about["adapter.type"]) == ("adapter", "lora")
    assert about["general.architecture"] == ARCHITECTURES[model.config.model_type] in gguf.MODEL_ARCH_NAMES.values()
    assert about["adapter.lora.alpha"] == pytest.approx(7.0)
    found = {each.name: torch.tensor(each.data.copy()) for each in read.tensors}
    back = LlamaTensorProcessor(model.config.to_dict())
    known = dict(zip(adapter.factors, factors(adapter, model.config), strict=True))
    assert set(adapter.factors) == layers and len(found) == 2 * len(layers) == 2 * len(set(known.values()))
    for layer, (a, b) in adapter.factors.items():
        up = found[f"{known[layer]}.lora_b"].numpy()
        if ARCHITECTURES[model.config.model_type] in PAIRED:
            up = back.process(up, f"{known[layer]}.weight").weights
        torch.testing.assert_close(torch.tensor(up) @ found[f"{known[layer]}.lora_a"], b @ a)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt2", "lfm2"])
def test_an_architecture_that_is_not_known_is_refused(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    with pytest.raises(SipoError, match=f"model type `{model.config.model_type}` is none .*; export --merged"):
        write_adapter(new_adapter(model, Lora(r=1), 1), model.config, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_what_no_sum_of_adapters_is_is_refused(
    opened: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, why in {"mod": "mixes 2 models while decoding", "prompting": "a way of asking"}.items():
        words = ["export", str(opened.path), "--weights", "detail=0.3,brevity=0.7", "--method", method, "--gguf-lora"]
        assert main([*words, "--to", str(tmp_path / "out")]) == 2
        assert why in capsys.readouterr().err
    layer = "model.layers.0.self_attn.extra_proj"
    with pytest.raises(SipoError, match=f"has no layer `{layer}`"):
        write_adapter(Adapter({layer: (torch.ones(1, 4), torch.ones(4, 1))}, 1.0), tiny("llama").config, tmp_path / "a")
    words = ["export", str(opened.path), "--weights", "detail=1", "--gguf-lora", "--to", str(tmp_path / "out")]
    for more in (["--merged"], ["--base", "owner/model"]):
        assert main([*words, *more]) == 2
        assert "--gguf-lora" in capsys.readouterr().err
    words[-1] = str(tmp_path / "a:b")
    assert main(words) == 2 and "no path with a colon" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_base_is_the_model_s_own_gguf_file_where_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a package."""
    (tmp_path / "some_model").mkdir()
    for name in ("__init__.py", "weights.gguf"):
        (tmp_path / "some_model" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "some_model" / "weights.gguf"
    assert gguf_file("some_model/weights.gguf") == gguf_file("package:some_model") == file
    assert gguf_file("owner/model") is None
