"""The plan that `sipo check` prints: rows, work, memory and hours, held against what is counted."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config

import sipo.models.shapes
from sipo.bank import Bank, new_adapter, save_adapter
from sipo.bank.whole import new_whole
from sipo.cli.main import main
from sipo.config.file import parse_config
from sipo.declare.memory import Peaks, adapter_parameters
from sipo.declare.work import Lengths, Plan, Sizes
from sipo.decoding import Request, decode
from sipo.decoding.mixture import at_mod
from sipo.engines.fitting import rows_for, tokens_for
from sipo.estimate.sizes import PAPER, counted, planned, stated
from sipo.estimate.table import _at_once
from sipo.graph.build import Graph
from sipo.logprobs.packing import Group, pack
from sipo.logprobs.score import response_logprobs
from sipo.models.footprint import Shape, shape
from sipo.models.load import Backbone
from sipo.models.shapes import KNOWN, is_here, outline, shape_of
from sipo.runs.pipeline import run
from sipo.settings import Lora
from sipo.task import Task

TINY = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 256}
LORA = Lora(r=8, alpha=8)


def llama(layers: int, dtype: torch.dtype) -> Backbone:
    config = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=layers, **TINY)
    model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return Backbone(model, None, "here")  # type: ignore[arg-type]


# Shapes


def test_an_outline_is_the_model_without_numbers(model_folder: Path, tmp_path: Path) -> None:
    config = shape_of(str(model_folder))
    assert config is not None and is_here(str(model_folder))
    drawn, whole = outline(config), AutoModelForCausalLM.from_pretrained(model_folder)
    assert next(drawn.parameters()).is_meta
    assert shape(drawn, torch.float32) == shape(whole, torch.float32)
    assert shape(whole).parameters == sum(
        tensor.numel() for tensor in load_file(model_folder / "model.safetensors").values()
    )
    assert shape(whole).weights == sum(
        tensor.nbytes for tensor in load_file(model_folder / "model.safetensors").values()
    )
    size = adapter_parameters(drawn, LORA)
    adapter = new_adapter(whole, LORA, 0)
    save_adapter(adapter, tmp_path, "base")
    assert size == sum(factor.numel() for factor in adapter.parameters)
    assert 4 * size == sum(tensor.nbytes for tensor in load_file(tmp_path / "adapter_model.safetensors").values())


def test_the_paper_s_models_have_their_published_sizes() -> None:
    sizes = {name: shape(outline(config)).parameters for name, config in KNOWN.items() if "DPA" not in name}
    assert sizes.pop("meta-llama/Llama-2-7b-hf") == 6_738_415_616
    assert set(sizes.values()) == {6_738_415_616 + 2 * 4096}  # a padding token more, in and out


def test_what_is_not_cached_is_known_or_not(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(sipo.models.shapes, "folder_of", lambda origin: Path(origin.source) if origin.local else None)
    assert not is_here("owner/name") and shape_of("owner/name") is None
    assert not is_here("meta-llama/Llama-2-7b-hf") and shape_of("meta-llama/Llama-2-7b-hf") is not None
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    monkeypatch.setattr(sipo.models.shapes, "folder_of", lambda origin: tmp_path)
    assert not is_here("owner/name") and shape_of("owner/name").hidden_size == 32  # type: ignore[union-attr]


# Memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_counted(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = llama(3, dtype)
    prompts, new, held = [tuple(range(20)), tuple(range(1, 31))], 9, []
    hidden_states = Bank.hidden_states

    def watched(self: Bank, points: Any, **inputs: Any) -> Any:
        output = hidden_states(self, points, **inputs)
        layers = output.past_key_values.layers
        held.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in layers))
        return output

    bank = Bank(backbone)
    adapters = [new_adapter(backbone.model, LORA, seed) for seed in (1, 2)]
    with bank.mounted(adapters):
        monkeypatch.setattr(Bank, "hidden_states", watched)
        from sipo.settings import Decoding

        decode(bank, [Request(prompt, at_mod((0.5, 0.5))) for prompt in prompts], Decoding(), new, ())
    rows = len(prompts) * len(adapters)
    assert max(held) == rows * (30 + new - 1) * shape(backbone.model).token_cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_activations_are_counted(dtype: torch.dtype, whole: bool) -> None:
    """What one more layer keeps for the backward, tensor by tensor, is what the formula gives it."""
    kept, inputs = {}, {}
    for layers in (2, 3):
        backbone = llama(layers, dtype)
        fresh: Any = new_whole(backbone.model) if whole else new_adapter(backbone.model, LORA, 0)
        policy = fresh.trainable_copy(torch.device("cpu"))
        groups = [Group(tuple(range(30)), (tuple(range(30)), tuple(range(5, 35))))] * 2
        packed, bank = pack(groups), Bank(backbone)
        fixed = {p.untyped_storage().data_ptr() for p in [*backbone.model.parameters(), *policy.parameters]}
        held, sizes = [], {}

        def pack_hook(tensor: torch.Tensor, held: Any = held, sizes: Any = sizes) -> torch.Tensor:
            held.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with bank.mounted([policy]), torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            response_logprobs(bank, packed, torch.ones(2, 1))
            kept[layers] = sum(size for where, size in sizes.items() if where not in fixed)
            held.clear(), sizes.clear()
            bank.recomputes = True
            response_logprobs(bank, packed, torch.ones(2, 1))
            inputs[layers] = sum(size for where, size in sizes.items() if where not in fixed)
        tokens, row, of = packed.ids.numel(), packed.ids.shape[1], shape(backbone.model)
    learned = sum(parameter.numel() for parameter in policy.parameters)
    copies = {False: learned // 3, True: (learned - embedded(backbone.model)) // 3 * (of.bytes < 4)}[whole] * of.bytes
    each = of.whole_activations(row) if whole else of.activations(LORA.r, 4, row)
    assert kept[3] - kept[2] == pytest.approx(tokens * each + copies, rel=0.02)
    assert inputs[3] - inputs[2] == tokens * (of.recomputed(each, 1) - 2 * each), "of a layer its input alone"


def test_layers_below_the_adapters_keep_nothing(settings: dict[str, Any]) -> None:
    kept = []
    for layers, lowest in ((2, 0), (3, 1), (4, 2)):
        backbone = llama(layers, torch.float32)
        policy = new_adapter(backbone.model, LORA.model_copy(update={"layers": lowest}), 0).trainable_copy(
            torch.device("cpu")
        )
        fixed = {p.untyped_storage().data_ptr() for p in [*backbone.model.parameters(), *policy.parameters]}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: Any = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        packed, bank = pack([Group(tuple(range(30)), (tuple(range(30)), tuple(range(5, 35))))] * 2), Bank(backbone)
        with bank.mounted([policy]), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            response_logprobs(bank, packed, torch.ones(2, 1))
        kept.append(sum(size for where, size in sizes.items() if where not in fixed))
    assert kept[0] == kept[1] == kept[2]
    model = outline(KNOWN["meta-llama/Llama-2-7b-hf"], torch.bfloat16)
    of = shape(model)
    upper, every = (
        Peaks(config_of(settings, lora={**settings["lora"], "layers": layers}), Lengths(512, 512), model, of, 4096, ())
        for layers in ("upper", "all")
    )
    tokens = settings["execution"]["train_tokens"]
    row, each = 1600, of.activations(every.config.lora.r, every.targets, 1600)
    adapters = (every.policy - upper.policy) * (5 * 4 + of.bytes)
    assert upper.below == 16 and every.training(row) - upper.training(row) == 16 * max(tokens, row) * each + adapters
    saved = every.decoding(500, 500, points=2) - every.policy * 2 * of.bytes
    saved -= upper.decoding(500, 500, points=2) - upper.policy * 2 * of.bytes
    rows = settings["execution"]["decode_rows"]
    assert saved == pytest.approx(rows * 1000 * of.token_cache * (1 + 1 / 32) / 4), "half of half of the layers"
    assert every.decoding(500, 500, points=2) == every.decoding(500, 500)


@pytest.mark.parametrize("gib", [18, 24, 40, 80])
def test_rows_and_tokens_are_as_many_as_the_memory_holds(gib: int, settings: dict[str, Any]) -> None:
    model = outline(KNOWN["meta-llama/Llama-2-7b-hf"], torch.bfloat16)
    of, memory = shape(model), gib * 2**30

    data = {**settings["data"], "max_prompt_tokens": 512, "max_response_tokens": 512}

    def peaks(**execution: Any) -> Peaks:
        config = config_of(settings, data=data, execution={"device": "cpu", **execution})
        return Peaks(config, Lengths(512, 512), model, of, 4096, (), memory, "cuda")

    auto, within = peaks(), 0.9 * memory
    rows = [each for each in range(1, 257) if peaks(decode_rows=each).decoding(500, 500) <= within]
    assert auto.decoding(500, 500) == peaks(decode_rows=max(rows)).decoding(500, 500)
    pool = {"engine": "pool", "workers": 2}
    if gib == 80:
        rows = [each for each in range(1, 257) if peaks(decode_rows=each, **pool).decoding(500, 500) <= within]
        assert peaks(**pool).decoding(500, 500) == peaks(decode_rows=max(rows), **pool).decoding(500, 500)
    tokens, longest = auto.train_tokens(), auto.both + auto.longest

    def training(tokens: int) -> int:
        return peaks(train_tokens=tokens).training(min(longest, tokens)) + auto.gradients()

    if tokens > longest:
        assert training(tokens) <= within < training(tokens + 1)
    assert 1 <= tokens <= 16384 and (tokens > longest) is (gib > 24)
    assert peaks(score_tokens=16384).scoring(1500) == peaks().scoring(1500) or gib < 40


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("n", [2, 5])
def test_policies_and_tokens_share_the_memory(n: int, device: str, settings: dict[str, Any]) -> None:
    """One more learns in the same steps where it and its rows fit, and while the others do not fill a step; tokens are
    what that leaves.
    """
    model = llama(2, torch.float32).model
    of, most = shape(model), 4096 if device == "cpu" else 16384
    data = {**settings["data"], "max_prompt_tokens": 100, "max_response_tokens": 100}
    objectives = [{"name": f"o{number}", "better": "It is.", "reward": None} for number in range(n)]
    more = {"objectives": objectives, "execution": {"device": "cpu"}, "weights": {}}
    config = parse_config({**settings, "methods": ["base", "mod"], "data": data, **more}, "here")

    def peaks(memory: float, mean: float = 90.0) -> Peaks:
        return Peaks(config, Lengths(100, 100), model, of, 4096, (), memory, device, mean)

    plenty = peaks(1e15)
    token = (of.layers + 1) * of.activations(config.lora.r, plenty.targets, 400)
    alone = plenty.training(400) - most * token + plenty.gradients()
    found = set()
    for room in (1, 300, 450, 700, 1200, 2000, 10**9):
        for batch, mean in ((1, 4.0), (1, 90.0), (8, 90.0), (64, 300.0)):
            each = peaks((alone + room * token) / 0.9, mean)
            given, tokens = config.align.model_copy(update={"batch_size": batch}), batch * mean
            together = each.together(n, given)

            def worth(count: int, each: Peaks = each, tokens: float = tokens) -> bool:
                full = each.train_tokens(count)
                fits = each.training(400, count) + each.gradients(count) <= 0.9 * each.memory
                if device == "cpu":
                    full = min(full, int(1e9 / (of.parameters / of.layers)))
                return fits and (count - 1) * tokens < full

            assert all(map(worth, range(2, together + 1))) and (together == n or not worth(together + 1))
            forwards = math.ceil(together * tokens / each.train_tokens(together))
            assert together == 1 or forwards <= 2
            assert each.train_tokens(together) <= each.train_tokens() <= most
            found.add((together, each.train_tokens(together) < each.train_tokens()))
            if room == 10**9:
                assert together == min(n, math.ceil(most / tokens)) and each.train_tokens(n) == most
    assert {(1, False), (n, False), (n, True)} <= found, "tokens give way to policies where both would not fit"


def embedded(model: Any) -> int:
    """Parameters outside of the layers."""
    return sum(each.numel() for name, each in model.named_parameters() if ".layers." not in name)


def test_whole_models_take_what_their_parameters_do(settings: dict[str, Any]) -> None:
    model, whole = (
        outline(KNOWN["meta-llama/Llama-2-7b-hf"], torch.bfloat16),
        {k: v for k, v in settings.items() if k != "lora"},
    )
    config = parse_config({**whole, "policies": "full", "methods": ["soups", "raco"]}, "here")
    of, lengths = shape(model), Lengths(512, 512, 300, 300)
    found = Peaks(config, lengths, model, of, 4096, ())
    peaks = {stage.name: stage.peak(found) for stage in Graph(config) if stage.peak}
    p = of.parameters
    # float32 parameters, their gradients, two moments and the best so far; what computes, and the frozen backbone
    assert 24 * p < peaks["align"] < 24 * p + 60e9
    assert peaks["raco"] - peaks["align"] == 2 * 4 * p
    assert 4 * 2 * p < peaks["answers/soups"], "the backbone, two policies and a soup"
    sizes = Sizes(100, 10, 10, 10, (100, 100), 50, 50, "counted")
    light, full = (
        Plan(parse_config({**whole, "policies": kind}, "here"), lengths, sizes, ()) for kind in ("lora", "full")
    )
    assert (light.step(), full.step(), full.step(2)) == (2, 3, 5)
    again = parse_config({**whole, "execution": {"gradient_checkpointing": True}}, "here")
    assert Plan(again, lengths, sizes, ()).step() == 3


ANSWERS = [f"answers/{name}" for name in ("base", "soups", "mod", "sipo")]


def config_of(settings: dict[str, Any], **more: Any) -> Any:
    return parse_config(
        {**settings, "methods": ["base", "soups", "mod", "lw", "modpo", "raco", "sipo"], **more}, "here"
    )


def test_memory_follows_what_drives_it(settings: dict[str, Any]) -> None:
    model = outline(KNOWN["meta-llama/Llama-2-7b-hf"])
    of, lengths = shape(model), Lengths(512, 512, 300, 300)

    def peaks(judges: tuple[int, ...] = (), **more: Any) -> dict[str, float]:
        config = config_of(settings, **more)
        found = Peaks(config, lengths, model, of, 4096, judges)
        return {stage.name: stage.peak(found) for stage in Graph(config) if stage.peak}

    plain = peaks()
    assert plain["raco"] - plain["lw"] == 2 * 4 * adapter_parameters(model, config_of(settings).lora), "two gradients"
    execution = settings["execution"]
    more_rows = peaks(execution={**execution, "decode_rows": 64})
    more_tokens = peaks(execution={**execution, "train_tokens": 8192})
    assert more_rows["sample"] > plain["sample"] and more_rows["align"] == plain["align"]
    assert more_tokens["align"] > plain["align"] and more_tokens["sample"] == plain["sample"]
    again = peaks(execution={**execution, "gradient_checkpointing": True})
    assert again["align"] < plain["align"] and again["sample"] == plain["sample"]
    assert all(peak > of.weights for name, peak in plain.items() if not name.startswith("judged"))
    pool = peaks(execution={**execution, "engine": "pool", "workers": 3})
    assert pool["sample"] == of.weights + 3 * plain["sample"] and pool["realign"] == plain["realign"]
    assert peaks((of.weights,))["judged/sipo"] >= 2 * of.weights > plain["judged/sipo"]
    full = peaks(sft={"max_tokens": 2048})["sft"]
    light = peaks(sft={"max_tokens": 2048, "lora": {"r": 64, "alpha": 64}})["sft"]
    assert full > 18 * of.parameters > 2 * light


def test_a_shape_may_have_heads_of_its_own_width() -> None:
    config = Qwen2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, head_dim=32, tie_word_embeddings=False, **TINY
    )
    of = shape(outline(config))
    assert (of.queries, of.keys) in {(128, 64), (64, 32)}
    assert isinstance(of, Shape) and of.token_cache == 2 * of.keys * 2


# Work


@pytest.fixture(scope="module")
def finished(make_settings: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = make_settings(tmp_path_factory.mktemp("check"))
    sft = {"lr": 1e-3, "epochs": 2, "batch_size": 2, "accumulate": 4, "max_tokens": 300}
    config = config_of(settings, sft=sft, execution={"device": "cpu"})  # how much at once is left to the memory
    return config, run(config, quiet=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_and_responses_are_those_of_a_run(finished: Any) -> None:
    config, folder = finished
    task = Task(config)
    sizes = counted(task)
    found = {stage.name: stage.work(Plan(config, Lengths(10, 10), sizes, task.weights)) for stage in Graph(config)}
    for stage in ("sft", "align", "lw", "modpo"):
        assert found[stage].steps == len(lines(folder / stage / "training.jsonl")), stage
    assert found["realign"].steps >= len(lines(folder / "realign" / "training.jsonl")) > 0
    assert found["sample"].written == len(lines(folder / "sample" / "samples.jsonl"))
    assert found["refine"].written == 2 * len(lines(folder / "refine" / "refinements.jsonl"))
    assert found["raco"].steps == found["lw"].steps and found["raco"].tokens > found["lw"].tokens
    for name in config.methods:
        assert found[f"answers/{name}"].written == len(lines(folder / "answers" / name / "responses.jsonl"))
    twice = Graph(config)["align"].work(Plan(config, Lengths(20, 20), sizes, task.weights))
    assert twice.tokens == 2 * found["align"].tokens
    asking = [stage.name for stage in Graph(config) if stage.peak and not stage.name.startswith("judged")]
    assert all(found[name].tokens > 0 for name in asking)


# Rows that are not there


@pytest.mark.parametrize("n", [None, 1, 16])
def test_draws_that_are_not_taken_are_not_judged(n: int | None, settings: dict[str, Any]) -> None:
    config = config_of(settings, methods=["base", "soups", "best-of-n"], best_of_n={"n": n})
    weights = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    plan = Plan(config, Lengths(10, 10), Sizes(30, 3, 7, 7, (30, 30), 8, 8, "counted"), weights)
    graph = Graph(config)
    assert graph["answers/best-of-n"].work(plan).written == 7 * (3 * n if n else 1 + 2 + 1)
    judged = graph["judged/best-of-n"].work(plan)
    assert judged.judged == judged.compared == 7 * 3 == graph["judged/soups"].work(plan).judged


def test_the_card_tells_how_many_rows_there_will_be(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "helpsteer"
    settings["data"]["path"] = str(folder / "rows.jsonl")
    assert stated(config_of(settings)) == PAPER["helpsteer"]
    folder.mkdir()
    head = "| split | rows | prompts | in conflict |\n| --- | --- | --- | --- |\n"
    parts = "| train | 200 | 150 | 25.00% |\n| validation | 30 | 20 | 50.00% |\n| test | 40 | 25 | 0.00% |\n"
    (folder / "README.md").write_text(head + parts + "| all | 270 | 195 | 24.07% |\n")
    sizes = planned(config_of(settings))
    assert (sizes.train, sizes.validation, sizes.test, sizes.worked) == (200, 30, 25, 8)  # sample.prompts is 8
    data = {**settings["data"], "train_rows": 100, "conflict_ratio": 0.6}
    sizes = planned(config_of(settings, data=data, sample={}))
    assert (sizes.train, sizes.worked, sizes.labelled) == (100, 60, (100, 100))
    (folder / "README.md").write_text(head + "| all | 200 | 100 | 50.00% |\n")
    sizes = planned(config_of(settings, sample={}))
    assert (sizes.train, sizes.validation, sizes.test, sizes.worked) == (140, 20, 20, 70)
    assert "the card" in sizes.said


def test_rows_of_no_known_number_are_missed(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    settings["data"]["path"] = str(tmp_path / "mine" / "rows.jsonl")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_rows_are_shown_where_only_the_model_is_not_here(
    settings: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sipo.models.shapes, "folder_of", lambda origin: Path(origin.source) if origin.local else None)
    settings["model"]["path"] = "meta-llama/Llama-2-7b-hf"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml"), "--gpu", "80"]) == 0
    text = capsys.readouterr().out
    assert "40 rows of" in text and "for sipo: counted" in text
    assert (
        "model meta-llama/Llama-2-7b-hf: not on this machine" in text
        and "look at this:" in text
        and "nothing stops it" in text
    )


@pytest.mark.parametrize("engine", ["transformers", "pool", "ray"])
def test_what_auto_chose_is_what_a_run_takes(
    engine: str, settings: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the engine, and of training, in a memory that does not hold what they would take."""
    most = {"decode_rows": "auto", "score_tokens": "auto", "train_tokens": "auto", "train_together": "auto"}
    more = {"device": "cpu", "engine": engine, "workers": 2, "ray": {"actors": 3}}
    settings = {**settings, "execution": most | more, "refine": {"enabled": False}}
    task = Task(config_of(settings))
    of, execution, n = shape(task.bank.model), task.config.execution, len(task.objectives)
    policies = [new_adapter(task.bank.model, task.config.lora, seed) for seed in range(n)]
    monkeypatch.setattr("sipo.ranks.memory_of", lambda device: 40 * of.weights)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml")]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith("at once ")]
    prompt = max(len(task.prompt_tokens(row)) for part in vars(task.splits).values() for row in part)
    limit, span = task.config.data.max_response_tokens, task.span(policies)
    rows = rows_for(execution, task.bank, span, [Request((5,) * prompt, at_mod((1 / n,) * n))], limit)
    tokens = tokens_for(execution, task.bank, span, prompt + limit)
    assert 1 < rows < 64 and tokens < 4096
    assert f" {rows} rows decoded and {tokens:,} tokens scored" in line
    together = task.together(n, task.config.align)
    assert f" {task.train_tokens(together):,} tokens trained by {together} polic" in line
    shared = {"pool": "in each of 2 workers", "ray": "in each of 3 actors of Ray (taken to be on this machine"}
    assert shared.get(engine, "") in line
    assert line.endswith(f"chosen by {40 * of.weights / 2**30:.3g} GiB (cpu)")


def test_nothing_is_said_of_what_is_not_auto(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    given = {"decode_rows": 9, "score_tokens": 99, "train_tokens": 99, "train_together": 1, "device": "cpu"}
    for execution in (given, given | {"score_tokens": "auto"}):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | {"execution": execution}))
        assert main(["check", str(tmp_path / "run.yaml")]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("at once ")]
        assert len(said) == (execution != given)
        assert not any("decoded" in line or "trained" in line for line in said)


def test_vllm_takes_rows_of_its_own(settings: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(settings, execution={"device": "cpu", "decode_rows": "auto", "engine": "vllm"})
    model = outline(KNOWN["meta-llama/Llama-2-7b-hf"], torch.bfloat16)
    peaks = Peaks(config, Lengths(512, 512), model, shape(model), 4096, (), 80 * 2**30, "cuda")
    assert _at_once(peaks).startswith("as many rows decoded as vLLM takes and ")


def test_a_local_plan_says_what_fits_and_how_long(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["check", str(tmp_path / "run.yaml"), "--gpu", "0.00001", "--tokens-per-second", "10"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["align"][6] == "no" and float(rows["align"][7]) > 0
    assert "nothing stops it" in text and "not looked at" not in text
    assert "\ndoes not fit: align, sample, refine, score, realign and answers; docs/gpu.md tells" in text
    hours = sum(float(rows[stage][7]) for stage in ("align", "sample", "refine", "score", "realign", *ANSWERS))
    assert float(text.split(" hours at 10")[0].splitlines()[-1]) == pytest.approx(hours, rel=0.02)


def test_the_command_that_starts_it_lays_over_the_same(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a run.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    laid_over = ["--set", "methods=[base, soups]", "--set", "align.lr=1e-4"]
    assert main(["check", str(file), *laid_over]) == 0
    command = capsys.readouterr().out.splitlines()[-1].split("`")[1]
    assert shlex.split(command) == ["sipo", "run", str(file), *laid_over]
