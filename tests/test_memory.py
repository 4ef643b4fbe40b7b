"""Full memory, injected: what does not fit is done in halves, with the same results, and said once."""

import errno
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import random_adapter
from transformers import LlamaForCausalLM

from sipo.bank import Adapter, Bank, load_adapter, save_adapter
from sipo.config.file import parse_config
from sipo.decoding import BestOf, Generated, Request, at_mod, at_soup, base
from sipo.engines import Local, Span
from sipo.engines import batched as batching
from sipo.engines.batched import Texts
from sipo.engines.probe import find_routes
from sipo.filters.features import embedding
from sipo.filters.features.spec import Answers
from sipo.finished.answering import Asked, Placed, given
from sipo.logprobs.packing import Group
from sipo.logprobs.score import ScoreRequest, score_rows
from sipo.logprobs.table import LogprobTable
from sipo.memory import UNBOUND, Pieces, is_full
from sipo.methods.interface import Aligned
from sipo.models.load import load_backbone
from sipo.progress import Progress
from sipo.settings import Decoding, Execution, Model, Training
from sipo.task import Task
from sipo.training import loop
from sipo.training.conflict import Rule
from sipo.training.learner import Recipe
from sipo.training.loop import Example, Examples, Loss, Trained, Trainee, Weighting, train_together

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")


def narrow(compute: Callable[..., Any], place: int, most: int, tried: list[int]) -> Callable[..., Any]:
    """The same, with memory for so many of what the argument at `place` holds."""

    def computed(*args: Any, **named: Any) -> Any:
        tried.append(len(args[place]))
        if len(args[place]) > most:
            raise FULL
        return compute(*args, **named)

    return computed


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "sipo.memory")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "sipo.memory"]


@pytest.fixture(autouse=True)
def unhurt(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank is other tests' too, and remembers."""
    monkeypatch.setattr(bank, "training_pieces", Pieces("tokens", "execution.train_tokens"))


@pytest.fixture
def engine(bank: Bank) -> Local:
    return Local(Execution(device="cpu", decode_rows=24, score_tokens=600), bank)


@pytest.fixture
def span(bank: Bank, policies: list[Adapter]) -> Span:
    return Span(bank.backbone.settings, tuple(policies))


PROMPTS = [tuple(range(20, 25 + length)) for length in range(7)]


def test_texts_that_do_not_fit_are_written_by_fewer_rows(
    engine: Local, span: Span, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = (base(3), at_soup((0.2, 0.3, 0.5)), at_mod((0.5, 0.3, 0.2)))
    requests = [Request(prompt, m, seed) for seed, prompt in enumerate(PROMPTS) for m in mixtures]
    asked: Any = (span, requests, Decoding(temperature=1.0), 6, (7,))
    whole, tried = dict(engine.generate(*asked)), list[int]()
    decode = batching.decode

    def narrowed(*args: Any, rows: int) -> Any:
        tried.append(rows)
        if rows > 5:
            raise FULL
        return decode(*args, rows=rows)

    monkeypatch.setattr(batching, "decode", narrowed)
    assert dict(engine.generate(*asked)) == whole
    assert tried == [24, 12, 6, 3]
    assert dict(engine.generate(*asked)) == whole
    assert tried[4:] == [3], "what has not fitted once is not tried again"
    (line,) = said()
    assert line.startswith("the memory does not hold") and "execution.decode_rows" in line


def test_scores_that_do_not_fit_are_found_in_halves(
    engine: Local, span: Span, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = [(40, 41, 42), (50, 51), (60,)]
    mixtures = (at_soup((1.0, 0.0, 0.0)), at_mod((0.5, 0.3, 0.2)), at_mod((0.2, 0.3, 0.5)))
    requests = [ScoreRequest(p, r, m) for p in PROMPTS for r in responses for m in mixtures]
    whole, tried = dict(engine.score(span, requests)), list[int]()
    monkeypatch.setattr(batching, "score_rows", narrow(batching.score_rows, 1, 2, tried))
    monkeypatch.setattr(batching, "mixture_logprobs", narrow(batching.mixture_logprobs, 2, 1, tried))
    found = dict(engine.score(span, requests))
    assert found.keys() == whole.keys() and max(tried) > 2
    assert [found[unit] for unit in found] == pytest.approx([whole[unit] for unit in found], abs=1e-3)
    assert len(said()) == 1 and "execution.score_tokens" in said()[0]


def test_embeddings_that_do_not_fit_are_found_in_halves(
    make_settings: Callable[[Path], dict[str, Any]], tmp_path: Path, said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    task = Task(parse_config(make_settings(tmp_path), "settings"), Progress(quiet=True))
    answers = [Answers((), (), task.group(row)) for row in task.splits.train[:9]]
    whole, tried = embedding._measure(task, answers, LogprobTable()), list[int]()
    monkeypatch.setattr(embedding, "mean_states", narrow(embedding.mean_states, 1, 2, tried))
    halves = embedding._measure(task, answers, LogprobTable())
    assert max(tried) > 2 and len(halves) == len(whole) == 9
    for one, other in zip(whole, halves, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert len(said()) == 1 and "execution.score_tokens" in said()[0]


def test_the_draws_of_one_answer_are_scored_in_halves(
    bank: Bank, policies: list[Adapter], said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the draws to one prompt, which share a row, do not fit together."""
    best = BestOf(4, (0.2, 0.3, 0.5))
    model = Placed(Aligned(tuple(policies), base(3), best_of=best), (0, 1, 2), 3)
    draws = [Generated((40 + each, 41, 42), True) for each in range(4)]
    asked = Asked(model, [Request(PROMPTS[3], base(3), seed) for seed in range(4)], Decoding())
    with bank.mounted(policies):
        whole = given(asked, draws, bank, batching.Room(Execution()))
        compute, tried = batching.score_rows, list[int]()

        def narrowed(bank: Bank, rows: Any) -> Any:
            tried.append(sum(len(group.responses) for group, _ in rows))
            if tried[-1] > 2:
                raise FULL
            return compute(bank, rows)

        monkeypatch.setattr(batching, "score_rows", narrowed)
        assert given(asked, draws, bank, batching.Room(Execution())) == whole
    assert max(tried) == 16 and tried.count(2) == 8 and len(said()) == 1


def test_slices_are_as_large_as_fits_and_in_order(said: Callable[[], list[str]]) -> None:
    for most in range(1, 9):
        pieces, sizes = Pieces("rows", None), list[int]()

        def doubled(some: Any, most: int = most, sizes: list[int] = sizes) -> list[int]:
            sizes.append(len(some))
            if len(some) > most:
                raise FULL
            return [2 * each for each in some]

        assert pieces.slices(range(8), doubled) == list(range(0, 16, 2)) == pieces.slices(range(8), doubled)
        assert pieces.slices([], doubled) == [] and most / 2 < max(sizes[-2:]) <= most
    with pytest.raises(torch.OutOfMemoryError):
        Pieces("rows", None).slices(range(8), lambda _: (_ for _ in ()).throw(FULL))


def test_one_that_does_not_fit_alone_is_the_error(engine: Local, span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, rows: int) -> None:
        raise FULL

    monkeypatch.setattr(batching, "decode", full)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        list(engine.generate(span, [Request(p, base(3)) for p in PROMPTS], Decoding(), 3, ()))


def test_other_errors_are_not_taken_for_it() -> None:
    pieces = Pieces("rows", "execution.decode_rows")

    def broken(batch: Texts) -> list[int]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        pieces.of(Texts([Request(p, base(3)) for p in PROMPTS], Decoding(), 3, (), 8), broken)
    assert pieces.size == UNBOUND


def _raise(_: torch.Tensor) -> None:
    raise FULL


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("rule", ["sum", "raco"])
def test_a_step_that_does_not_fit_is_made_of_smaller_pieces(
    bank: Bank,
    policies: list[Adapter],
    late: bool,
    rule: Rule,
    said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever memory ends: in a forward, or on the way back, when half of the gradient is there already. Two policies
    learn in the same steps; combined gradients are those of whole batches.
    """
    groups = [Group(prompt, ((40, 41, 42), (50, 51))) for prompt in PROMPTS]
    with bank.mounted([]):
        rows = [Example(g, tuple(score_rows(bank, [(g, ())])[0]), ((0, 1, 1.0, -1.0),)) for g in groups]

    def trained() -> list[Trained]:
        recipe = Recipe(Training(epochs=2, batch_size=5), 1e-3, 0)
        loss = Loss(0.5, Weighting((0.7, 0.3), rule=rule, c=0.4), token_budget=100)
        asked = [Trainee(each, Examples(rows, rows[:4]), recipe, loss) for each in policies[:2]]
        results = train_together(bank, asked)
        assert all(isinstance(each, Trained) for each in results)
        return results  # type: ignore[return-value]

    whole, tried, losses = trained(), list[int](), loop._losses

    def failing(scored: Any, *args: Any) -> Any:
        tried.append(len(scored.examples))
        found = losses(scored, *args)
        if len(scored.examples) > 2:
            if not late or not torch.is_grad_enabled():
                raise FULL
            bank.policies[-1].parameters[0].grad = torch.full_like(bank.policies[-1].parameters[0], 9.0)
            found[0].register_hook(_raise)
        return found

    monkeypatch.setattr(loop, "_losses", failing)
    halved = trained()
    assert max(tried) > 2 and sum(size > 2 for size in tried) <= 4, "what has not fitted once is not tried again"
    assert len(said()) == 1 and "execution.train_tokens" in said()[0]
    for one, other, start in zip(halved, whole, policies, strict=False):
        for record, same in zip(one.history, other.history, strict=True):
            assert record == pytest.approx(same, rel=1e-3, abs=1e-4)
        begun, once, twice = (
            torch.cat([parameter.detach().flatten() for parameter in each.parameters])
            for each in (start, other.policy, one.policy)
        )
        assert float((once - twice).norm()) < 0.02 * float((once - begun).norm())


def test_a_row_that_does_not_fit_alone_ends_the_training(
    bank: Bank, policies: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Example(Group(prompt, ((40, 41), (50,))), (0.0, 0.0), ((0, 1, 1.0),)) for prompt in PROMPTS]
    tried: list[int] = []

    def full(scored: Any, *_: Any) -> Any:
        tried.append(len(scored.examples))
        raise FULL

    monkeypatch.setattr(loop, "_losses", full)
    recipe = Recipe(Training(epochs=1, batch_size=7), 1e-3, 0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        train_together(bank, [Trainee(policies[0], Examples(rows), recipe, Loss(0.5, token_budget=100))])
    assert tried == sorted(tried, reverse=True) and tried[:2] == [7, 3] and tried.count(1) <= 2


def test_what_was_broken_off_is_let_go(bank: Bank, policies: list[Adapter]) -> None:
    """Else the smaller pieces would have to fit beside it."""
    layers = bank.model.base_model.layers  # type: ignore[union-attr]
    held: list[Any] = []

    def full(_: Any, inputs: Any, __: Any) -> None:
        held.append(weakref.ref(inputs[0]))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")  # one of its own: an error keeps what led to it

    def fewer(size: int) -> int | None:
        return size // 2

    learning = policies[0].trainable_copy(bank.device)
    with bank.mounted([learning]):
        hook = layers[-1].self_attn.q_proj.register_forward_hook(full)
        ids = torch.arange(24).view(2, 12)

        def compute(rows: int) -> bool:
            alive = [ref() is not None for ref in held]
            bank.hidden_states(torch.ones(rows, 1), input_ids=ids[:rows], use_cache=False)
            return any(alive)

        try:
            assert not Pieces("rows", None).within(2, compute, fewer)
        finally:
            hook.remove()


@pytest.mark.parametrize(
    "line",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "unable to mmap 64 bytes from file </model.safetensors>: Cannot allocate memory (12)",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes",
    ],
)
def test_libraries_say_in_words_of_their_own_that_memory_is_full(line: str) -> None:
    assert is_full(RuntimeError(line)) and not is_full(ValueError(line))


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_full_memory_is_no_fault_of_a_file_or_a_model(
    error: Exception, bank: Bank, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that a file is damaged, or that a model wants slower ways, since there was no room for it."""

    def full(*_: Any, **__: Any) -> Any:
        raise error

    save_adapter(random_adapter(bank.backbone, 1), model_folder.parent / "full", str(model_folder))
    with monkeypatch.context() as patch:
        patch.setattr("sipo.bank.peft_folder.load_file", full)
        with pytest.raises(type(error)):
            load_adapter(model_folder.parent / "full")
    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "from_pretrained", full)
        patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
        with pytest.raises(type(error)):
            load_backbone(Model(path=str(model_folder), dtype="float32"), "cpu")
    layers = ["model.layers.0.self_attn.q_proj"]
    for place in ("_even", "_packed", "_decoded"):
        with monkeypatch.context() as patch:
            patch.setattr(f"sipo.engines.probe._Probe.{place}", full)
            with pytest.raises(type(error)):
                find_routes(bank, layers)
