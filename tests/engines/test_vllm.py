"""vLLM's texts are transformers', token by token, in step or not. `make test-vllm` runs these."""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from families import TEXT
from small import random_adapter
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import sipo
from sipo.bank import Adapter, Bank
from sipo.commands import VLLM_RANKS, serve
from sipo.config.file import parse_config
from sipo.decoding import (
    FORWARD_KL,
    JENSEN_SHANNON,
    REVERSE_KL,
    Divergence,
    Generated,
    Request,
    at_mod,
    at_soup,
    base,
    decode,
    seed_of,
)
from sipo.disk.journal import Journal
from sipo.engines import Engine, Span, answer, opened, vllm
from sipo.engines.vllm import Vllm
from sipo.errors import SipoError
from sipo.labelling import Drawing, label
from sipo.models.load import Backbone, load_backbone
from sipo.progress import Progress
from sipo.settings import Decoding, Execution, Model
from sipo.testing.engines import EngineConformance

pytest.importorskip("vllm")

decoder = sys.modules["sipo.decoding.running"]
GREEDY, SAMPLED = Decoding(temperature=0), Decoding(temperature=0.8, top_k=40, top_p=0.95)
NEW = 24
STEM = tuple(range(10, 22))
PROMPTS = [(5, 6, 7), tuple(range(30, 50)), (8,), (*STEM, 40), (*STEM, 50, 51), STEM, STEM]
DIVERGENCES = [REVERSE_KL, FORWARD_KL, JENSEN_SHANNON, Divergence("alpha", 0.5)]


@pytest.fixture(scope="session")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads as wide as vLLM wants them."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(folder: Path) -> Backbone:
    return load_backbone(Model(path=str(folder), dtype="float32"), "cpu")


@pytest.fixture(scope="session")
def bank(backbone: Backbone) -> Bank:
    return Bank(backbone)


@pytest.fixture(scope="session")
def policies(backbone: Backbone) -> list[Adapter]:
    return [random_adapter(backbone, seed, r) for seed, r in ((1, 3), (2, 5), (3, 2))]


@contextmanager
def started(bank: Bank, decode_rows: int = 16) -> Iterator[Vllm]:
    """One at a time: a process has room for one vLLM."""
    with opened(Execution(engine="vllm", decode_rows=decode_rows), bank) as engine:
        assert isinstance(engine, Vllm)
        yield engine


@pytest.fixture(scope="module")
def shared(bank: Bank) -> Iterator[Vllm]:
    """It takes seconds to start, so it is kept from test to test."""
    with started(bank) as engine:
        yield engine


@pytest.fixture
def engine(shared: Vllm) -> Vllm:
    return shared


@pytest.fixture(autouse=True)
def room_for_one(request: pytest.FixtureRequest, shared: Vllm) -> None:
    """A test that starts another finds none running."""
    if "engine" not in request.fixturenames:
        shared._stop()


class TestVllm(EngineConformance):
    whole = False

    @pytest.fixture
    def model(self, bank: Bank) -> Model:
        return bank.backbone.settings


def by_vllm(
    engine: Vllm, bank: Bank, adapters: Sequence[Adapter], requests: list[Request], *how: Any
) -> list[Generated]:
    found = dict(engine.generate(Span(bank.backbone.settings, tuple(adapters)), requests, *how))
    return [found[unit] for unit in range(len(requests))]


def plainly(bank: Bank, adapters: Sequence[Adapter], requests: list[Request], *how: Any) -> list[Generated]:
    with bank.mounted(adapters):
        return decode(bank, requests, *how)


def asked(divergence: Divergence = REVERSE_KL, prompts: list[tuple[int, ...]] = PROMPTS) -> list[Request]:
    mixtures = [at_mod(weight, divergence) for weight in ((0.2, 0.3, 0.5), (0.5, 0.0, 0.5))]
    if divergence == REVERSE_KL:
        mixtures += [base(3), at_soup((0.2, 0.3, 0.5)), at_soup((0.6, 0.4, 0.0)), at_mod((1.0, 0.0, 0.0))]
    return [Request(p, m, seed_of(p, i)) for i, m in enumerate(mixtures) for p in prompts]


class TestTexts:
    """A class, so that they come one after the other and the engine is started once."""

    @pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("divergence", DIVERGENCES, ids=[each.kind for each in DIVERGENCES])
    def test_the_texts_are_those_of_transformers(
        self, engine: Vllm, bank: Bank, policies: list[Adapter], divergence: Divergence, decoding: Decoding
    ) -> None:
        fallen, unending = engine.fallen, plainly(bank, policies, asked(divergence), decoding, NEW, ())
        assert by_vllm(engine, bank, policies, asked(divergence), decoding, NEW, ()) == unending
        end = unending[0].tokens[5]
        ending = plainly(bank, policies, asked(divergence), decoding, NEW, (end,))
        assert by_vllm(engine, bank, policies, asked(divergence), decoding, NEW, (end,)) == ending != unending
        assert engine.fallen == fallen, "with room enough no group falls out of step"

    def test_neighbours_change_nothing(self, engine: Vllm, bank: Bank, policies: list[Adapter]) -> None:
        together = by_vllm(engine, bank, policies, asked(), SAMPLED, NEW, ())
        assert together[::7] == [by_vllm(engine, bank, policies, [each], SAMPLED, NEW, ())[0] for each in asked()[::7]]

    def test_other_adapters_and_none(
        self, engine: Vllm, bank: Bank, policies: list[Adapter], backbone: Backbone
    ) -> None:
        for adapters in (policies[::-1], [random_adapter(backbone, 9, 4)], []):
            requests = [
                Request(p, at_mod(tuple(1 / len(adapters) for _ in adapters)) if adapters else base(0)) for p in PROMPTS
            ]
            found = by_vllm(engine, bank, adapters, requests, GREEDY, NEW, ())
            assert found == plainly(bank, adapters, requests, GREEDY, NEW, ())


def test_without_a_number_vllm_takes_as_many_rows_as_it_does_by_itself(bank: Bank, policies: list[Adapter]) -> None:
    with opened(Execution(engine="vllm"), bank) as engine:
        assert isinstance(engine, Vllm)
        texts = by_vllm(engine, bank, policies, asked(), SAMPLED, NEW, ())
        assert engine.sizes.rows == vllm.rows_of_its_own() > 64
    assert texts == plainly(bank, policies, asked(), SAMPLED, NEW, ())


def test_rows_that_do_not_fit_the_cache_are_asked_again(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row grows into a second block of the cache, which has not as many: vLLM preempts rows."""
    monkeypatch.setattr(vllm, "_cache_bytes", lambda *_: 10 * BLOCK_BYTES)
    requests = asked(prompts=[tuple(range(i, 100 + i)) for i in range(4)])
    with started(bank, 8) as engine:
        found = by_vllm(engine, bank, policies, requests, SAMPLED, 60, ())
        assert found == plainly(bank, policies, requests, SAMPLED, 60, ())
        assert engine.fallen > 0


def test_prompts_that_do_not_fit_a_step_are_computed_in_pieces(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "STEP_TOKENS", 1)
    requests = asked(prompts=[tuple(range(i, 200 + i)) for i in range(3)])
    with started(bank, 8) as engine:
        found = by_vllm(engine, bank, policies, requests, GREEDY, NEW, ())
        assert found == plainly(bank, policies, requests, GREEDY, NEW, ())
        assert engine.fallen > 0


def test_a_cache_too_small_for_one_group_is_an_error(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_cache_bytes", lambda *_: 5 * BLOCK_BYTES)
    request = Request(tuple(range(150)), at_mod((0.2, 0.3, 0.5)))
    with started(bank) as engine:
        with pytest.raises(SipoError, match="cannot keep 3 rows of 150 tokens in step"):
            by_vllm(engine, bank, policies, [request], GREEDY, NEW, ())
        small = [Request((1, 2), at_mod((0.2, 0.3, 0.5)))]
        found = by_vllm(engine, bank, policies, small, GREEDY, NEW, ())
        assert found == plainly(bank, policies, small, GREEDY, NEW, ()), "it goes on"


BLOCK_BYTES = 2 * 2 * 32 * 128 * 4
"""Of the tiny model's cache: keys and values, layers, width, tokens in a block, bytes."""


def test_what_vllm_cannot_do_is_one_line(
    model_folder: Path, bank: Bank, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = Bank(load_backbone(Model(path=str(model_folder), dtype="float32"), "cpu"))  # heads of 8
    large = [random_adapter(backbone, seed, 300) for seed in (1, 2)]
    with (
        started(narrow) as engine,
        pytest.raises(SipoError, match="vllm cannot decode with .*head.*; set it"),
    ):
        by_vllm(engine, narrow, [], [Request((1, 2), base(0))], GREEDY, NEW, ())
    with started(bank) as engine, pytest.raises(SipoError, match="up to rank 512, and a soup here has rank 600"):
        by_vllm(engine, bank, large, [Request((1, 2), at_soup((0.5, 0.5)))], GREEDY, NEW, ())


def test_the_process_is_left_as_it_was(bank: Bank) -> None:
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    with started(bank) as engine:
        by_vllm(engine, bank, [], [Request((1, 2), base(0))], GREEDY, NEW, ())
        held = Path(engine._folder.name)
    assert torch.set_num_threads is setter and torch.get_num_threads() == threads
    assert not held.exists() and not torch.distributed.is_initialized()


def test_a_killed_answer_goes_on_and_a_finished_one_starts_nothing(
    bank: Bank, policies: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "BATCHES", 2)
    batches: list[int] = []
    original = Vllm._decode

    def counted(self: Vllm, bank: Bank, span: Span, batch: list[Request], *rest: Any) -> list[Generated]:
        batches.append(sum(len(request.mixture.points) for request in batch))
        return original(self, bank, span, batch, *rest)

    monkeypatch.setattr(Vllm, "_decode", counted)
    span = Span(bank.backbone.settings, tuple(policies))

    def answers(engine: Engine) -> list[Generated]:
        return answer(
            engine, span, asked(), SAMPLED, NEW, (),
            Journal(tmp_path / type(engine).__name__, "x", Progress(quiet=True)),
        )  # fmt: skip

    with opened(Execution(decode_rows=8), bank) as local:
        expected = answers(local)
    with started(bank, 8) as engine:
        assert answers(engine) == expected
        assert max(batches) <= 16 and len(batches) > 3
        journal = tmp_path / "Vllm" / ".journal" / "x.jsonl"
        lines = journal.read_text().splitlines(keepends=True)
        assert len(lines) == len(set(asked()))
        journal.write_text("".join(lines[:10]) + lines[10][:5])
        done = len(batches)
        assert answers(engine) == expected
        assert 0 < len(batches) - done < done
    with started(bank, 8) as fresh:
        assert answers(fresh) == expected
        assert fresh._running is None


EDGE = 1e-5
"""The engines' log-probabilities differ by some 1e-6; of a thousand draws over a few tokens, the nearest to an edge is
ten times as far from it as this."""


def room(scores: Tensor, uniform: Tensor, decoding: Decoding) -> float:
    """How far the draws are from falling on other tokens: from the edges of the tokens' shares, and the scores from
    changing places.
    """
    best = (scores.double() / decoding.temperature).topk(decoding.top_k + 1, dim=-1).values
    shares = best[:, :-1].softmax(-1).cumsum(-1)
    to_edge = (shares[:, :-1] - uniform[:, None]).abs().amin(-1)
    taken = (shares < uniform[:, None]).sum(-1, keepdim=True).clamp_max(decoding.top_k - 1)
    to_others = (best - best.gather(-1, taken)).abs().scatter(-1, taken, torch.inf).amin(-1)
    return float(torch.minimum(to_edge, to_others).min())


def test_a_run_is_the_same_by_either_engine(
    folder: Path, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text by text, with a seed for which no draw is so near an edge that rounding could tip it over."""
    settings["model"]["path"] = str(folder)
    settings["methods"] = ["base", "soups", "mod", "mod-jensen-shannon", "sipo"]
    settings["evaluate"]["prompts"] = 4
    settings["decoding"] = {"temperature": 1.0, "top_k": 4}

    def written(engine: str) -> list[list[dict]]:
        settings["run_dir"] = str(tmp_path / f"{engine}-{settings['seed']}")
        settings["execution"]["engine"] = engine
        run = sipo.run(parse_config(settings, "settings"), quiet=True)
        judged = (f"judged/{name}/responses.jsonl" for name in settings["methods"])
        files = "sample/samples.jsonl", "refine/refinements.jsonl", *judged
        found = [[json.loads(line) for line in (run / file).read_text().splitlines()] for file in files]
        for each in found[1]:
            del each["gains"]
        return found

    drawn: list[float] = []
    next_tokens = decoder.next_tokens

    def watched(scores: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
        drawn.append(room(scores, uniform, decoding))
        return next_tokens(scores, uniform, decoding)

    for settings["seed"] in (2, 3, 4):
        drawn.clear()
        with monkeypatch.context() as watching:
            watching.setattr(decoder, "next_tokens", watched)
            ours = written("transformers")
        if min(drawn) > EDGE:
            break
    else:
        pytest.fail("with each of the seeds a draw lies at an edge")
    assert len(drawn) > 50 and written("vllm") == ours


def test_labelled_rows_are_the_same_by_either_engine(folder: Path, settings: dict, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in TEXT.split()[:6]))
    objectives = parse_config(settings, "settings").objectives
    model = Model(path=str(folder), dtype="float32")
    first, second = (
        label(
            prompts, model, objectives, tmp_path / f"{engine}.jsonl",
            Drawing(Decoding(temperature=1.0), 8), execution=Execution(device="cpu", engine=engine), progress=Progress(quiet=True),
        )
        for engine in ("transformers", "vllm")
    )  # fmt: skip
    assert first == second and len(first) > 3


def test_vllm_understands_the_line_that_serves_an_export(tmp_path: Path) -> None:
    """By its own parser: the base, the adapter by its name and place, and room for its rank; a whole model as well."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())

    def parsed(line: str) -> Any:
        program, verb, *words = shlex.split(line)
        assert (program, verb) == ("vllm", "serve")
        found = parser.parse_args(words)
        validate_parsed_serve_args(found)
        return found

    folder = tmp_path / "my soup"
    for rank in VLLM_RANKS:
        found = parsed(serve(folder, "owner/model", rank))
        assert (found.model_tag, found.enable_lora, found.max_lora_rank) == ("owner/model", True, rank)
        ((name, path),) = [(each.name, each.path) for each in found.lora_modules]
        assert (name, path) == (folder.name, str(folder))
    whole = parsed(serve(folder, None))
    assert whole.model_tag == str(folder) and not whole.enable_lora
